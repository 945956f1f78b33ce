// SPDX-License-Identifier: Apache-2.0
// How much a row attends to each token, summed over the query heads of a KV group: what attention
// itself forgets as it goes. A second pass over K, for sequences whose slots carry scores.
#pragma once

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cpu/pool_memory.h"

namespace palimpsest {

// What a query's softmax came to: the probability of a key is exp(logit - max) / sum.
struct SoftmaxTotals {
  float max = 0.0f;
  float sum = 0.0f;
};

// The one row that a sequence adds, as one KV head of one layer sees it. Borrowed.
struct AttendedLane {
  const PoolMemory& memory;
  const SequenceView& view;
  int layer;
  int kv_head;
  const float* q;                         // of the row: [group heads][head_dim]
  float scale;                            // of the logits
  absl::Span<const SoftmaxTotals> heads;  // of the group
};

// Calls visit(lane, slot, mass) for every live slot in pages; `mass` is the probability of its key,
// summed over the group's heads.
void ForEachMass(const AttendedLane& at,
                 absl::FunctionRef<void(const LaneRef&, int slot, float mass)> visit);

// H2O: adds to the scores of the live tokens in pages and of the open ones, the new one among them.
void AddAttentionReceived(const AttendedLane& at);

}  // namespace palimpsest
