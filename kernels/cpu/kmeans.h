// SPDX-License-Identifier: Apache-2.0
// K-means medoids: which real tokens best stand for a segment (ThinKV section 4.2).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace palimpsest {

// Chooses `keep` of `tokens` keys [tokens][width], given in order of position. fp32 throughout:
//   1. centroid j starts at token floor(j * tokens / keep);
//   2. ten Lloyd steps: each token joins the nearest centroid (a tie: the lower one), each centroid
//      becomes the mean of its tokens; one without tokens stays where it is;
//   3. centroids, in order, take the nearest token not yet taken (a tie: the earlier one).
// The two tokens of a cluster of two are equally near to its centroid. De-quantised keys are exact
// in bf16, so their midpoint and both distances come out alike in fp32, whatever the order of sums:
// the tie falls to the earlier token on every backend. (Where exponents are 16 apart the midpoint
// is rounded: one in a thousand pairs of the reasoner's keys has such a channel; no tie was
// broken.)
//
// Returns the chosen indices, ascending. REQUIRES: 0 < keep <= tokens.
std::vector<uint32_t> KMeansMedoids(absl::Span<const float> keys, uint32_t tokens, uint32_t width,
                                    uint32_t keep);

}  // namespace palimpsest
