// SPDX-License-Identifier: Apache-2.0
// The rotation of keys and queries that BackendConfig::rotate_keys asks for.
#pragma once

#include "absl/types/span.h"

namespace palimpsest {

// The orthonormal Walsh-Hadamard transform of one head, in place: outlier channels are spread over
// all of them, and logits of rotated queries and keys are those of the plain ones. Its own inverse.
// Butterflies go from stride 1 upwards, the scale comes last, all in fp32: what another backend
// must match bit for bit. REQUIRES: a power of two of channels.
void Hadamard(absl::Span<float> head);

// Each head_dim values of `heads` by themselves.
void HadamardHeads(absl::Span<float> heads, int head_dim);

}  // namespace palimpsest
