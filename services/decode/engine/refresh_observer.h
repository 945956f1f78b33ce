// SPDX-License-Identifier: Apache-2.0
// Measures attention sparsity for the chains whose window ends with the step at hand, in the
// layers their policies were calibrated on.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "services/decode/engine/chain.h"
#include "services/decode/model/model.h"

namespace palimpsest {

class RefreshObserver final : public LayerObserver {
 public:
  // chains[i] has the step's i-th StepRows. The span outlives this; chains that end before Deliver
  // are null in it by then.
  RefreshObserver(Backend* backend, absl::Span<Chain* const> chains);

  // What the chains that refresh want measured; none when none does.
  absl::Span<const int> layers() const override { return layers_; }

  // Orders the measurements; a device may carry them out later.
  absl::Status AfterAttend(int layer, const LayerActivations& io) override;

  // Waits for the measurements and fills Chain::sparsity of the chains that refresh.
  absl::Status Deliver();

 private:
  Backend* const backend_;
  const absl::Span<Chain* const> chains_;
  std::vector<uint32_t> refreshing_;  // indices into chains_
  std::vector<int> layers_;           // ascending
  // What is being measured, and where it goes.
  std::vector<float> sparsity_;
  struct Target {
    uint32_t chain = 0;  // index into chains_
    size_t value = 0;    // into its Chain::sparsity
  };
  std::vector<Target> targets_;
};

}  // namespace palimpsest
