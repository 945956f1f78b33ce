// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/query_window.h"

#include <algorithm>

#include "kernels/cpu/codec.h"

namespace palimpsest {

void KeepQueries(const PoolMemory& memory, int layer, absl::Span<const SequenceView> sequences,
                 absl::Span<const StepRows> rows, const NewTokens& tokens) {
  const auto dim = static_cast<size_t>(memory.shape().head_dim);
  const int heads = memory.config().query_heads;
  for (const StepRows& r : rows) {
    const SequenceView& view = sequences[r.sequence];
    if (!view.keeps_queries) continue;
    const float* q = static_cast<const float*>(tokens.q) + size_t{r.row} * heads * dim;
    for (uint32_t i = 0; i < r.count; ++i) {
      const uint32_t position = view.open_position + view.open_count + i;
      for (int head = 0; head < heads; ++head, q += dim) {
        uint16_t* const to = memory.queries(view.open_group, layer, head) +
                             position % memory.config().query_window * dim;
        std::transform(q, q + dim, to, FloatToBf16);
      }
    }
  }
}

uint32_t QueriesKept(const PoolMemory& memory, const SequenceView& view) {
  return std::min(memory.config().query_window, view.open_position + view.open_count);
}

std::vector<float> NewestQueries(const ClassLane& lane) {
  const auto dim = static_cast<size_t>(lane.head_dim());
  const uint32_t kept = QueriesKept(lane.memory, lane.view);
  const uint32_t first = lane.view.open_position + lane.view.open_count - kept;
  std::vector<float> queries;
  queries.reserve(size_t{kept} * lane.group_heads() * dim);
  for (uint32_t i = 0; i < kept; ++i) {
    for (int g = 0; g < lane.group_heads(); ++g) {
      const uint16_t* const from =
          lane.memory.queries(lane.view.open_group, lane.layer, lane.first_query_head() + g) +
          (first + i) % lane.memory.config().query_window * dim;
      std::transform(from, from + dim, std::back_inserter(queries), Bf16ToFloat);
    }
  }
  return queries;
}

}  // namespace palimpsest
