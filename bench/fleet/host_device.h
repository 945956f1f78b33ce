// SPDX-License-Identifier: Apache-2.0
// A backend and a model that do on the host what those of a GPU do there, checks and tables and
// plans, and nothing else: no launches, no copies, no device. What is left of a step's time is the
// host's share of it.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/step_writer.h"
#include "kernels/pool_layout.h"
#include "services/decode/model/model.h"
#include "services/decode/model/started_steps.h"

namespace palimpsest::bench {

// Seconds that this thread has computed: on a busy machine too, what a step costs.
double CpuSeconds();

// Where they go inside a HostBackend.
struct HostSeconds {
  double begin_step = 0, seal = 0, anneal = 0;
};

class HostBackend final : public Backend {
 public:
  explicit HostBackend(const BackendConfig& config);

  HostSeconds TakeSeconds();
  // Layers that were planned on their own so far.
  uint64_t layers_planned() const { return layers_planned_; }

  ActivationType activation_type() const override { return ActivationType::kBfloat16; }
  absl::Status BeginStep(absl::Span<const SequenceView> sequences,
                         absl::Span<const StepRows> rows) override;
  absl::Status Append(int, const NewTokens&) override { return absl::OkStatus(); }
  absl::Status Attend(int, const LayerActivations&) override { return absl::OkStatus(); }
  absl::Status MeasureSparsity(int layer, absl::Span<const uint32_t> wanted,
                               const LayerActivations& io, absl::Span<float> sparsity) override;
  absl::Status Seal(absl::Span<const SequenceView> sequences,
                    absl::Span<const SealOrder> orders) override;
  absl::Status Anneal(absl::Span<const SequenceView> sequences,
                      absl::Span<const AnnealOrder> orders) override;
  absl::Status Zero(PageOffset, uint64_t) override { return absl::OkStatus(); }
  absl::Status ZeroOpenGroup(uint32_t) override { return absl::OkStatus(); }
  absl::Status Read(PageOffset offset, absl::Span<uint8_t> out) const override;
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::Status AwaitSparsity() override { return absl::OkStatus(); }

 private:
  template <typename Order>
  void StagePages(absl::Span<const SequenceView> sequences, absl::Span<const Order> orders);

  const PoolLayout layout_;
  cuda::StepWriter writer_;
  std::vector<uint8_t> tables_, plans_;
  uint64_t layers_planned_ = 0;
  std::vector<bool> uneven_rows_;  // of this step
  std::vector<cuda::PageEntry> entries_;
  HostSeconds seconds_;
};

class HostModel final : public Model {
 public:
  HostModel(ModelConfig config, uint32_t rows_max)
      : config_(std::move(config)), rows_max_(static_cast<int>(rows_max)) {}

  const ModelConfig& config() const override { return config_; }
  int rows_max() const override { return rows_max_; }
  int logit_rows_max() const override { return rows_max_; }
  bool may_observe(int layer) const override { return layer >= 0 && layer < config_.layers; }
  uint64_t weight_bytes() const override { return 0; }
  absl::Status Forward(const StepBatch& batch, Backend& backend, absl::Span<float> logits) override;
  absl::Status StartGenerate(const StepBatch& batch, Backend& backend,
                             absl::Span<const SampleSpec> samples) override;
  absl::Status AwaitTokens(absl::Span<int32_t> tokens) override { return chosen_.Await(tokens); }

 private:
  const ModelConfig config_;
  const int rows_max_;
  ChosenTokens chosen_;
};

}  // namespace palimpsest::bench
