// SPDX-License-Identifier: Apache-2.0
// A Model that, while its PretendBackend pretends, says random tokens without computing anything.
// Steps to be awaited may be pretended ones when it stops pretending, but none when it begins to.
#pragma once

#include "bench/fleet/pretend_backend.h"
#include "services/decode/model/forwarding_model.h"
#include "services/decode/model/started_steps.h"

namespace palimpsest::bench {

class PretendModel final : public ForwardingModel {
 public:
  // Both outlive this.
  PretendModel(Model* model, const PretendBackend* backend);

  absl::Status StartGenerate(const StepBatch& batch, Backend& backend,
                             absl::Span<const SampleSpec> samples) override;
  absl::Status AwaitTokens(absl::Span<int32_t> tokens) override;

 private:
  const PretendBackend* const backend_;
  uint32_t random_ = 1;
  ChosenTokens pretended_;
  bool last_pretended_ = false;  // was the step started last?
};

}  // namespace palimpsest::bench
