// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/attend.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cpu/attention_state.h"
#include "kernels/cpu/eviction.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tile.h"

namespace palimpsest {
namespace {

constexpr size_t kBlocksPerPart = 64;  // 1024 tokens: long enough to hide a merge, short enough
                                       // to spread one long sequence over the cores

// One task: some blocks of one KV head of one sequence, for all its queries.
struct Part {
  uint32_t rows_index = 0;
  int kv_head = 0;
  size_t first_block = 0;
  size_t last_block = 0;
  bool with_open_group = false;  // the last part of a head
  size_t states = 0;             // where its states begin, in floats from the scratch's start
};

// Partial results of one part: for each query (row-major, then head of the group) head_dim values,
// max and sum, padded to whole vectors so that threads do not share cache lines.
struct StateSlots {
  int head_dim = 0;
  size_t stride() const { return static_cast<size_t>(head_dim) + kSlotsPerPage; }
};

struct Step {
  const PoolMemory& memory;
  int layer;
  absl::Span<const SequenceView> sequences;
  absl::Span<const StepRows> rows;
  const LayerActivations& io;

  int head_dim() const { return memory.shape().head_dim; }
  int query_heads() const { return memory.config().query_heads; }
  int group_heads() const { return query_heads() / memory.shape().kv_heads; }
  size_t queries(const StepRows& r) const { return size_t{r.count} * group_heads(); }
  // Offset of query `index` of KV head `kv_head` in q and in out.
  size_t QueryOffset(const StepRows& r, int kv_head, size_t index) const {
    const size_t row = r.row + index / group_heads();
    const size_t head = static_cast<size_t>(kv_head) * group_heads() + index % group_heads();
    return (row * query_heads() + head) * head_dim();
  }
};

// Of one KV head, in all classes.
size_t BlockCount(const Step& step, const SequenceView& view, int kv_head) {
  size_t blocks = 0;
  for (const Thought thought : kThoughts) {
    blocks += LaneBlocks(step.memory, view, thought, step.layer, kv_head).size();
  }
  return blocks;
}

std::vector<Part> PlanParts(const Step& step, size_t* floats) {
  std::vector<Part> parts;
  const StateSlots slots{step.head_dim()};
  for (uint32_t i = 0; i < step.rows.size(); ++i) {
    const SequenceView& view = step.sequences[step.rows[i].sequence];
    for (int head = 0; head < step.memory.shape().kv_heads; ++head) {
      const size_t blocks = BlockCount(step, view, head);
      for (size_t first = 0; first == 0 || first < blocks; first += kBlocksPerPart) {
        const size_t last = std::min(blocks, first + kBlocksPerPart);
        parts.push_back({i, head, first, last, last == blocks, *floats});
        *floats += step.queries(step.rows[i]) * slots.stride();
      }
    }
  }
  return parts;
}

void FoldOpenGroup(const Step& step, const Part& part, absl::Span<AttentionState> states,
                   FloatTile* keys, FloatTile* values) {
  const StepRows& r = step.rows[part.rows_index];
  const SequenceView& view = step.sequences[r.sequence];
  const int tokens = static_cast<int>(view.open_count + r.count);
  const auto live = static_cast<uint16_t>((uint32_t{1} << tokens) - 1);
  const auto decode = [&](const uint16_t* from, FloatTile* to) {
    DequantiseSlots(Format::kBf16, reinterpret_cast<const uint8_t*>(from), nullptr, live,
                    step.head_dim(), to->values);
  };
  decode(step.memory.open_keys(view.open_group, step.layer, part.kv_head), keys);
  decode(step.memory.open_values(view.open_group, step.layer, part.kv_head), values);
  for (size_t i = 0; i < states.size(); ++i) {
    // Causal inside the step: row j sees the open tokens up to its own.
    const int seen = static_cast<int>(view.open_count + i / step.group_heads()) + 1;
    FoldTile(static_cast<const float*>(step.io.q) + step.QueryOffset(r, part.kv_head, i),
             keys->values, values->values, seen, step.head_dim(), step.io.scale, &states[i]);
  }
}

// One more key and value, of the weight of all that were evicted.
void FoldResidue(const Step& step, const Part& part, absl::Span<AttentionState> states) {
  const StepRows& r = step.rows[part.rows_index];
  const SequenceView& view = step.sequences[r.sequence];
  const int dim = step.head_dim();
  const float* const keys = step.memory.residue(view.open_group, step.layer, part.kv_head);
  const float* const values = keys + dim;
  const float count = keys[2 * dim];
  if (count == 0.0f) return;
  float mean[kMaxHeadDim];
  std::transform(values, values + dim, mean, [&](float sum) { return sum / count; });
  for (size_t i = 0; i < states.size(); ++i) {
    const float* const q =
        static_cast<const float*>(step.io.q) + step.QueryOffset(r, part.kv_head, i);
    const float logit = std::inner_product(q, q + dim, keys, 0.0f) / count * step.io.scale;
    states[i].Merge({.max = logit + std::log(count), .sum = 1.0f, .values = mean}, dim);
  }
}

void RunPart(const Step& step, const Part& part, float* scratch) {
  const StepRows& r = step.rows[part.rows_index];
  const int dim = step.head_dim();
  const size_t stride = StateSlots{dim}.stride();
  FloatTile keys, values;
  // A step has at most 16 rows a sequence; query heads a group are the model's business.
  std::vector<AttentionState> states(step.queries(r));
  for (size_t i = 0; i < states.size(); ++i) {
    states[i] = AttentionState::Init(scratch + part.states + i * stride, dim);
  }
  const auto* q = static_cast<const float*>(step.io.q);
  ForEachLane(step.memory, step.sequences[r.sequence], step.layer, part.kv_head, part.first_block,
              part.last_block, [&](const LaneRef& lane, uint16_t live) {
                const PageFormat format = lane.layout->format;
                const int tokens = DequantiseSlots(format.k, lane.k_data(), lane.k_scales(), live,
                                                   dim, keys.values);
                DequantiseSlots(format.v, lane.v_data(), lane.v_scales(), live, dim, values.values);
                for (size_t i = 0; i < states.size(); ++i) {
                  FoldTile(q + step.QueryOffset(r, part.kv_head, i), keys.values, values.values,
                           tokens, dim, step.io.scale, &states[i]);
                }
              });
  if (part.with_open_group) {
    FoldOpenGroup(step, part, absl::MakeSpan(states), &keys, &values);
    if (step.memory.shape().residue) FoldResidue(step, part, absl::MakeSpan(states));
  }
  for (const AttentionState& state : states) {
    state.values[dim] = state.max;
    state.values[dim + 1] = state.sum;
  }
}

// Merges `parts`, all of one head, into the first one and writes the outputs, and of a single row
// what its softmax came to.
void MergeHead(const Step& step, absl::Span<const Part> parts, AttendScratch* scratch) {
  const StepRows& r = step.rows[parts[0].rows_index];
  const int dim = step.head_dim();
  const size_t stride = StateSlots{dim}.stride();
  auto* out = static_cast<float*>(step.io.out);
  for (size_t i = 0; i < step.queries(r); ++i) {
    const auto state_of = [&](const Part& part) {
      float* values = scratch->values.data() + part.states + i * stride;
      return AttentionState{.max = values[dim], .sum = values[dim + 1], .values = values};
    };
    AttentionState whole = state_of(parts[0]);
    for (const Part& part : parts.subspan(1)) whole.Merge(state_of(part), dim);
    whole.Normalise(dim, out + step.QueryOffset(r, parts[0].kv_head, i));
    if (r.count > 1) continue;
    const size_t head = static_cast<size_t>(parts[0].kv_head) * step.group_heads() + i;
    scratch->totals[size_t{parts[0].rows_index} * step.query_heads() + head] = {whole.max,
                                                                                whole.sum};
  }
}

// What attention tells of the tokens of a sequence that adds one row.
void JudgeTokens(const Step& step, const StepRows& r, const SoftmaxTotals* totals) {
  const SequenceView& view = step.sequences[r.sequence];
  const bool received = view.slot_score == SlotScore::kAttentionReceived && r.count == 1;
  const bool evicts = view.evict_from != kNoEviction;
  if (!received && !evicts) return;
  const auto group = static_cast<size_t>(step.group_heads());
  std::vector<AttendedLane> heads;
  for (int head = 0; head < step.memory.shape().kv_heads; ++head) {
    heads.push_back({.memory = step.memory,
                     .view = view,
                     .layer = step.layer,
                     .kv_head = head,
                     .q = static_cast<const float*>(step.io.q) + step.QueryOffset(r, head, 0),
                     .scale = step.io.scale,
                     .heads = {totals + head * group, group}});
  }
  if (evicts) return EvictLeastValued(heads);
  for (const AttendedLane& head : heads) AddAttentionReceived(head);
}

}  // namespace

void Attend(const PoolMemory& memory, int layer, absl::Span<const SequenceView> sequences,
            absl::Span<const StepRows> rows, const LayerActivations& io, TaskTeam& team,
            AttendScratch* scratch) {
  const Step step{memory, layer, sequences, rows, io};
  size_t floats = 0;
  const std::vector<Part> parts = PlanParts(step, &floats);
  if (scratch->values.size() < floats) scratch->values.resize(floats);
  scratch->totals.resize(rows.size() * step.query_heads());
  float* const states = scratch->values.data();
  ParallelFor(team, static_cast<int64_t>(parts.size()),
              [&](int64_t i) { RunPart(step, parts[i], states); });

  size_t first = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].with_open_group) continue;
    MergeHead(step, absl::MakeConstSpan(parts).subspan(first, i + 1 - first), scratch);
    first = i + 1;
  }
  ParallelFor(team, static_cast<int64_t>(rows.size()), [&](int64_t i) {
    JudgeTokens(step, rows[i], &scratch->totals[i * step.query_heads()]);
  });
}

}  // namespace palimpsest
