// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/hadamard.h"

#include <cmath>

namespace palimpsest {

void Hadamard(absl::Span<float> head) {
  for (size_t stride = 1; stride < head.size(); stride *= 2) {
    for (size_t first = 0; first < head.size(); first += 2 * stride) {
      for (size_t i = first; i < first + stride; ++i) {
        const float a = head[i], b = head[i + stride];
        head[i] = a + b;
        head[i + stride] = a - b;
      }
    }
  }
  const auto norm = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head.size())));
  for (float& x : head) x *= norm;
}

void HadamardHeads(absl::Span<float> heads, int head_dim) {
  const auto dim = static_cast<size_t>(head_dim);
  for (size_t at = 0; at < heads.size(); at += dim) Hadamard(heads.subspan(at, dim));
}

}  // namespace palimpsest
