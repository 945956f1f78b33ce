// SPDX-License-Identifier: Apache-2.0
#include "services/decode/engine/refresh_observer.h"

#include <algorithm>

#include "common/base/status_macros.h"

namespace palimpsest {

RefreshObserver::RefreshObserver(Backend* backend, absl::Span<Chain* const> chains)
    : backend_(backend), chains_(chains) {
  for (uint32_t i = 0; i < chains_.size(); ++i) {
    if (!chains_[i]->refreshes_next() || !chains_[i]->policy->wants_sparsity()) continue;
    refreshing_.push_back(i);
    const std::vector<uint32_t>& layers = chains_[i]->request.policy.sparsity_layers;
    layers_.insert(layers_.end(), layers.begin(), layers.end());
  }
  sparsity_.reserve(layers_.size());  // it must not move
  std::sort(layers_.begin(), layers_.end());
  layers_.erase(std::unique(layers_.begin(), layers_.end()), layers_.end());
}

absl::Status RefreshObserver::AfterAttend(int layer, const LayerActivations& io) {
  std::vector<uint32_t> wanted;
  for (const uint32_t i : refreshing_) {
    const std::vector<uint32_t>& layers = chains_[i]->request.policy.sparsity_layers;
    const auto place = std::lower_bound(layers.begin(), layers.end(), layer);
    if (place == layers.end() || *place != static_cast<uint32_t>(layer)) continue;
    wanted.push_back(i);
    targets_.push_back({.chain = i, .value = static_cast<size_t>(place - layers.begin())});
  }
  sparsity_.resize(targets_.size());
  return backend_->MeasureSparsity(layer, wanted, io,
                                   absl::MakeSpan(sparsity_).last(wanted.size()));
}

absl::Status RefreshObserver::Deliver() {
  if (targets_.empty()) return absl::OkStatus();
  KV_RETURN_IF_ERROR(backend_->AwaitSparsity());
  for (size_t i = 0; i < targets_.size(); ++i) {
    Chain* const chain = chains_[targets_[i].chain];
    if (chain != nullptr) chain->sparsity[targets_[i].value] = sparsity_[i];
  }
  return absl::OkStatus();
}

}  // namespace palimpsest
