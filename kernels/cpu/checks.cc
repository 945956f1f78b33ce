// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/checks.h"

#include <algorithm>
#include <cmath>

#include "kernels/checks.h"

namespace palimpsest {
namespace {

// True when `accept` holds for every element of the rows' activations.
template <typename Accept>
bool AllOf(const void* data, absl::Span<const StepRows> rows, size_t row_width, Accept accept) {
  const auto* x = static_cast<const float*>(data);
  for (const StepRows& r : rows) {
    const float* first = x + r.row * row_width;
    if (!std::all_of(first, first + r.count * row_width, accept)) return false;
  }
  return true;
}

// The softmax would turn a NaN into a plausible average; better told here.
absl::Status CheckQueries(const PoolMemory& memory, absl::Span<const StepRows> rows,
                          const void* q) {
  if (q == nullptr) return absl::InvalidArgumentError("q is null");
  const size_t width = static_cast<size_t>(memory.config().query_heads) * memory.shape().head_dim;
  if (AllOf(q, rows, width, [](float x) { return std::isfinite(x); })) return absl::OkStatus();
  return absl::InvalidArgumentError("q holds a NaN or an infinity");
}

}  // namespace

absl::Status CheckQueries(const PoolMemory& memory, absl::Span<const StepRows> rows,
                          const LayerActivations& io) {
  if (!std::isfinite(io.scale)) {
    return absl::InvalidArgumentError("the softmax scale is not finite");
  }
  return CheckQueries(memory, rows, io.q);
}

absl::Status CheckNewTokens(const PoolMemory& memory, absl::Span<const SequenceView> sequences,
                            absl::Span<const StepRows> rows, const NewTokens& tokens) {
  if (tokens.k == nullptr || tokens.v == nullptr) {
    return absl::InvalidArgumentError("k or v is null");
  }
  const size_t width = static_cast<size_t>(memory.shape().kv_heads) * memory.shape().head_dim;
  const auto number = [](float x) { return !std::isnan(x); };
  // Rotation would make NaN of infinities.
  const auto key = [&](float x) {
    return memory.config().rotate_keys ? std::isfinite(x) : number(x);
  };
  if (!AllOf(tokens.k, rows, width, key) || !AllOf(tokens.v, rows, width, number)) {
    return absl::InvalidArgumentError("k or v holds a NaN, which would poison every later step");
  }
  if (!AppendTakesQueries(memory.config(), sequences)) return absl::OkStatus();
  return CheckQueries(memory, rows, tokens.q);
}

}  // namespace palimpsest
