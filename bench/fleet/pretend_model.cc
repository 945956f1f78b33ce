// SPDX-License-Identifier: Apache-2.0
#include "bench/fleet/pretend_model.h"

#include "common/base/status_macros.h"

namespace palimpsest::bench {

PretendModel::PretendModel(Model* model, const PretendBackend* backend)
    : model_(model), backend_(backend) {}

absl::Status PretendModel::Forward(const StepBatch& batch, Backend& backend,
                                   absl::Span<float> logits) {
  return model_->Forward(batch, backend, logits);
}

absl::Status PretendModel::Generate(const StepBatch& batch, Backend& backend,
                                    absl::Span<const SampleSpec> samples,
                                    absl::Span<int32_t> tokens) {
  if (!backend_->pretending()) return model_->Generate(batch, backend, samples, tokens);
  KV_RETURN_IF_ERROR(backend.BeginStep(batch.sequences, batch.rows));
  for (int32_t& token : tokens) {
    random_ = random_ * 1664525u + 1013904223u;
    token = static_cast<int32_t>((random_ >> 8) % static_cast<uint32_t>(config().vocab_size));
  }
  if (batch.observer == nullptr) return absl::OkStatus();
  for (const int layer : batch.observer->layers()) {
    KV_RETURN_IF_ERROR(batch.observer->AfterAttend(layer, {}));
  }
  return absl::OkStatus();
}

}  // namespace palimpsest::bench
