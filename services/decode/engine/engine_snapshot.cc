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
  working_.chains.resize(chains_.size());
  for (size_t i = 0; i < chains_.size(); ++i) {
    const Chain& chain = *chains_[i];
    ChainSnapshot& shown = working_.chains[i];  // its strings keep their memory
    shown.request = chain.id;
    shown.tenant = chain.request.tenant;
    shown.policy = chain.request.policy.name;
    shown.budget_tokens = chain.request.policy.budget_tokens;
    shown.tokens = chain.cache->token_count();
    shown.prompt_tokens = chain.prompt_tokens();
    shown.live_tokens = chain.cache->live_tokens();
    shown.footprint_bytes = chain.cache->footprint_bytes();
    shown.full_bytes = chain.cache->full_bytes();
    const std::string& timeline = chain.stats.timeline;
    shown.timeline.assign(timeline, timeline.size() - std::min(timeline.size(), kTimelineShown));
    shown.label = chain.label;
    working_.footprint_bytes += shown.footprint_bytes;
    working_.full_bytes += shown.full_bytes;
  }
  if (observer_ != nullptr) observer_->OnSnapshot(working_);
  const std::lock_guard<std::mutex> lock(mutex_);
  published_snapshot_ = working_;
}

}  // namespace palimpsest
