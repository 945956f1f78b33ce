// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/started_steps.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace palimpsest {

absl::Status StartedSteps::CheckRoom() const {
  if (started_ - awaited_ < kStepsAhead) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("step: ", kStepsAhead, " steps have been started and none has been awaited"));
}

void StartedSteps::Start(size_t count) {
  KV_CHECK(CheckRoom().ok());
  counts_[next_slot()] = count;
  ++started_;
}

absl::StatusOr<size_t> StartedSteps::Await(size_t count) {
  if (empty()) return absl::FailedPreconditionError("step: none has been started");
  const size_t slot = awaited_ % kStepsAhead;
  if (counts_[slot] != count) {
    return absl::InvalidArgumentError(
        absl::StrCat("step: ", counts_[slot], " tokens were to be chosen, not ", count));
  }
  ++awaited_;
  return slot;
}

absl::Span<const int32_t> ChosenTokens::Resolve(absl::Span<const int32_t> tokens) {
  const std::vector<int32_t>& before = chosen_[steps_.last_slot()];
  resolved_.assign(tokens.begin(), tokens.end());
  for (int32_t& token : resolved_) {
    if (token <= ChosenBefore(0)) token = std::max(before[ChosenBefore(0) - token], 0);
  }
  return resolved_;
}

absl::Span<int32_t> ChosenTokens::Start(size_t count) {
  std::vector<int32_t>& chosen = chosen_[steps_.next_slot()];
  steps_.Start(count);
  chosen.assign(count, kNoToken);
  return absl::MakeSpan(chosen);
}

absl::Status ChosenTokens::Await(absl::Span<int32_t> tokens) {
  KV_ASSIGN_OR_RETURN(const size_t slot, steps_.Await(tokens.size()));
  std::copy(chosen_[slot].begin(), chosen_[slot].end(), tokens.begin());
  return absl::OkStatus();
}

}  // namespace palimpsest
