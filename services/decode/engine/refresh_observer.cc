// SPDX-License-Identifier: Apache-2.0
#include "services/decode/engine/refresh_observer.h"

#include <algorithm>

#include "common/base/status_macros.h"

namespace palimpsest {

RefreshObserver::RefreshObserver(Backend* backend, absl::Span<Chain* const> chains,
                                 absl::Span<const SequenceView> views,
                                 absl::Span<const StepRows> rows)
    : backend_(backend), chains_(chains), views_(views), rows_(rows) {
  for (size_t i = 0; i < chains_.size(); ++i) {
    if (chains_[i]->policy->wants_sparsity() && chains_[i]->refreshes_next()) {
      refreshing_.push_back(i);
    }
  }
}

absl::Status RefreshObserver::AfterAttend(int layer, const LayerActivations& io) {
  std::vector<StepRows> rows;
  std::vector<float*> targets;
  for (const size_t i : refreshing_) {
    const std::vector<uint32_t>& layers = chains_[i]->request.policy.sparsity_layers;
    const auto place = std::lower_bound(layers.begin(), layers.end(), layer);
    if (place == layers.end() || *place != static_cast<uint32_t>(layer)) continue;
    rows.push_back(rows_[i]);
    targets.push_back(&chains_[i]->sparsity[place - layers.begin()]);
  }
  if (rows.empty()) return absl::OkStatus();
  std::vector<float> sparsity(rows.size());
  KV_RETURN_IF_ERROR(backend_->MeasureSparsity(layer, views_, rows, io, absl::MakeSpan(sparsity)));
  for (size_t i = 0; i < targets.size(); ++i) *targets[i] = sparsity[i];
  return absl::OkStatus();
}

}  // namespace palimpsest
