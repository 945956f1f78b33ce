// SPDX-License-Identifier: Apache-2.0
// Which queries of a sample stand for all of them: k-means, and the real query nearest to each
// centroid.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/task_team.h"
#include "kernels/query_codebook.h"
#include "services/cli/calibrate/query_samples.h"

namespace palimpsest::cli {

inline constexpr int kLloydSteps = 15;

// The indices of `clusters` of the points [count][width], all different, those of the largest
// clusters first, a fixed order. fp32:
//   1. k-means++: each start is drawn by its squared distance to the starts so far;
//   2. Lloyd steps, until nothing moves, at most kLloydSteps: each point joins the nearest centroid
//      (a tie: the lower one), each centroid becomes the mean of its points; one without points
//      becomes the point that is farthest from its own centroid;
//   3. each centroid is replaced by the nearest of its own points; for one without points stands a
//      point that nobody took.
// A pure function of its arguments. REQUIRES: 1 <= clusters <= count, a multiple of 16.
std::vector<uint32_t> ChooseTypical(absl::Span<const float> points, int width, uint32_t clusters);

// Called from time to time with the heads done. An error ends the work with it.
using ClusterHandler = std::function<absl::Status(size_t heads_done)>;

// The codebook of `queries` a head, its RoPE left empty. InvalidArgument when the sample has not as
// many tokens.
absl::StatusOr<QueryCodebook> ClusterQueries(const QuerySamples& samples, const ModelConfig& config,
                                             uint32_t queries, TaskTeam* team,
                                             const ClusterHandler& on_progress);

}  // namespace palimpsest::cli
