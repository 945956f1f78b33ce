// SPDX-License-Identifier: Apache-2.0
// Compares chains that read the same text side by side: each with the one that has the full cache,
// position by position, in the step in which both of them are there. So no logits are ever stored.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/task_team.h"
#include "services/cli/likelihood/divergence.h"
#include "services/cli/likelihood/forced_model.h"

namespace palimpsest::cli {

class Judge {
 public:
  explicit Judge(int threads) : team_(threads) {}

  // `chain` as ForcedModel::Add counted it. A chain that is its own reference is what others are
  // compared with. REQUIRES: chains are added in order, a reference before those that name it.
  void Add(uint64_t chain, uint64_t reference);

  // A step's rows: ForcedModel's sink. DataLoss where a logit is not finite, Internal where a chain
  // is not at its reference's position.
  absl::Status Take(absl::Span<const ForcedRow> rows);

  // What chain `chain` came to, once, and forgets it.
  std::vector<Divergence> Finish(uint64_t chain);

 private:
  struct Chain {
    uint64_t reference = 0;
    std::vector<Divergence> positions;  // of one that is no reference
    // Of a reference, in the present step:
    ReferenceRow row;
    uint64_t step = 0;
    uint32_t position = 0;
    bool finite = false;
  };

  void ForEach(const std::vector<size_t>& rows, TaskTeam::Work work);

  TaskTeam team_;
  std::vector<Chain> chains_;
  uint64_t step_ = 0;
  std::vector<size_t> references_, others_;  // scratch: indices of a step's rows
};

}  // namespace palimpsest::cli
