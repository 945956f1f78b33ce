// SPDX-License-Identifier: Apache-2.0
// One step as the engine has it made: what the model is asked for, and whose rows are which.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "services/decode/engine/chain.h"
#include "services/decode/engine/refresh_observer.h"
#include "services/decode/model/model.h"

namespace palimpsest {

class DecodeStep {
 public:
  void Clear();
  // A row of a decoding chain, a chunk of a prompt.
  void Add(Chain& chain);
  // Orders it of the model. Every chain added then has a token more ordered, but for those whose
  // prompts go on.
  absl::Status Start(Model& model, Backend& backend);
  // Has it been started, and not been awaited?
  bool running() const { return running_; }
  // Waits for the tokens of choosing(). REQUIRES: running().
  absl::StatusOr<absl::Span<const int32_t>> Await(Model& model);
  // Chains that have ended since it was started are none of its chains any more: their rows are
  // nobody's. To be called before they go.
  void LeaveOutEnded();

  bool empty() const { return chains_.empty(); }
  size_t row_count() const { return tokens_.size(); }
  // Its chains, in order; null where one has ended.
  absl::Span<Chain* const> chains() const { return chains_; }
  // chains()[i] adds rows()[i].count tokens to views()[i].
  absl::Span<const SequenceView> views() const { return views_; }
  absl::Span<const StepRows> rows() const { return rows_; }
  // Whose next token was the i-th that the step chose; null where the chain has ended.
  absl::Span<Chain* const> choosing() const { return choosing_; }
  // Measures what chains want measured. REQUIRES: the step has been started.
  RefreshObserver& refresh() { return *refresh_; }

 private:
  std::vector<Chain*> chains_, choosing_;
  std::vector<SequenceView> views_;
  std::vector<StepRows> rows_;
  std::vector<int32_t> tokens_;
  std::vector<uint32_t> logit_rows_;
  std::vector<SampleSpec> samples_;
  std::optional<RefreshObserver> refresh_;
  bool running_ = false;
  std::vector<int32_t> chosen_;
};

}  // namespace palimpsest
