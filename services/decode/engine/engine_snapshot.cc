// SPDX-License-Identifier: Apache-2.0
// The engine's picture of itself for other threads.
#include <algorithm>

#include "services/decode/engine/engine.h"

namespace palimpsest {
namespace {

constexpr std::chrono::milliseconds kSnapshotInterval{50};
constexpr size_t kTimelineShown = 256;

}  // namespace

EngineSnapshot Engine::Snapshot() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  EngineSnapshot snapshot = published_snapshot_;
  snapshot.waiting = static_cast<uint32_t>(waiting_.size());
  snapshot.draining = draining_;
  return snapshot;
}

void Engine::PublishSnapshot(bool force) {
  const Clock::Time now = clock_->Now();
  if (!force && now - published_ < kSnapshotInterval) return;
  published_ = now;
  working_.pool = pool_.usage();
  working_.store = control_ == nullptr ? StoreState::kNone : control_->state();
  working_.footprint_bytes = 0;
  working_.full_bytes = 0;
  working_.chains.clear();
  for (const std::unique_ptr<Chain>& chain : chains_) {
    const std::string& timeline = chain->stats.timeline;
    working_.chains.push_back(
        {.request = chain->id,
         .tenant = chain->request.tenant,
         .policy = chain->request.policy.name,
         .budget_tokens = chain->request.policy.budget_tokens,
         .tokens = chain->cache->token_count(),
         .prompt_tokens = chain->prompt_tokens(),
         .live_tokens = chain->cache->live_tokens(),
         .footprint_bytes = chain->cache->footprint_bytes(),
         .full_bytes = chain->cache->full_bytes(),
         .timeline = timeline.substr(timeline.size() - std::min(timeline.size(), kTimelineShown)),
         .label = chain->label});
    working_.footprint_bytes += working_.chains.back().footprint_bytes;
    working_.full_bytes += working_.chains.back().full_bytes;
  }
  if (observer_ != nullptr) observer_->OnSnapshot(working_);
  const std::lock_guard<std::mutex> lock(mutex_);
  published_snapshot_ = working_;
}

}  // namespace palimpsest
