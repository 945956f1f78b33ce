// SPDX-License-Identifier: Apache-2.0
// Which steps a model has started and not yet been asked the tokens of, and, for a model that has
// them at once, those tokens.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "services/decode/model/model.h"

namespace palimpsest {

class StartedSteps {
 public:
  // FailedPrecondition where kStepsAhead steps are to be awaited already.
  absl::Status CheckRoom() const;
  bool empty() const { return started_ == awaited_; }
  // Tokens that the step started last chooses.
  size_t last_count() const { return counts_[last_slot()]; }
  size_t last_slot() const { return (started_ + kStepsAhead - 1) % kStepsAhead; }
  // Where the next step's tokens go, below kStepsAhead: no step to be awaited has the same.
  size_t next_slot() const { return started_ % kStepsAhead; }

  // REQUIRES: CheckRoom().
  void Start(size_t count);
  // The slot of the oldest. FailedPrecondition where there is none, InvalidArgument where it
  // chooses another number of tokens.
  absl::StatusOr<size_t> Await(size_t count);

 private:
  std::array<size_t, kStepsAhead> counts_{};
  size_t started_ = 0, awaited_ = 0;
};

class ChosenTokens {
 public:
  const StartedSteps& steps() const { return steps_; }

  // `tokens` with what ChosenBefore stands for, valid until the next call. REQUIRES: CheckStart.
  absl::Span<const int32_t> Resolve(absl::Span<const int32_t> tokens);
  // Starts a step and gives room for what it chooses. REQUIRES: steps().CheckRoom().
  absl::Span<int32_t> Start(size_t count);
  // What AwaitTokens is to do.
  absl::Status Await(absl::Span<int32_t> tokens);

 private:
  StartedSteps steps_;
  std::array<std::vector<int32_t>, kStepsAhead> chosen_;
  std::vector<int32_t> resolved_;
};

}  // namespace palimpsest
