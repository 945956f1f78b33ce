// SPDX-License-Identifier: Apache-2.0
#include "bench/fleet/pretend_model.h"

#include <utility>

#include "common/base/status_macros.h"

namespace palimpsest::bench {

PretendModel::PretendModel(Model* model, const PretendBackend* backend)
    : ForwardingModel(model), backend_(backend) {}

absl::Status PretendModel::StartGenerate(const StepBatch& batch, Backend& backend,
                                         absl::Span<const SampleSpec> samples) {
  if (!backend_->pretending()) {
    StepBatch known = batch;
    if (std::exchange(last_pretended_, false)) known.tokens = pretended_.Resolve(batch.tokens);
    return model().StartGenerate(known, backend, samples);
  }
  KV_RETURN_IF_ERROR(pretended_.steps().CheckRoom());
  KV_RETURN_IF_ERROR(backend.BeginStep(batch.sequences, batch.rows));
  last_pretended_ = true;
  for (int32_t& token : pretended_.Start(samples.size())) {
    random_ = random_ * 1664525u + 1013904223u;
    token = static_cast<int32_t>((random_ >> 8) % static_cast<uint32_t>(config().vocab_size));
  }
  if (batch.observer == nullptr) return absl::OkStatus();
  for (const int layer : batch.observer->layers()) {
    KV_RETURN_IF_ERROR(batch.observer->AfterAttend(layer, {}));
  }
  return absl::OkStatus();
}

absl::Status PretendModel::AwaitTokens(absl::Span<int32_t> tokens) {
  return pretended_.steps().empty() ? model().AwaitTokens(tokens) : pretended_.Await(tokens);
}

}  // namespace palimpsest::bench
