// SPDX-License-Identifier: Apache-2.0
// What the network thread leaves for the engine: plans, and sequences that need a snapshot. The
// engine's calls hold the lock for a swap; only Await waits.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <unordered_set>
#include <vector>

#include "services/decode/control_plane.h"

namespace palimpsest {

class Mailbox {
 public:
  explicit Mailbox(size_t plans_max) : plans_max_(plans_max) {}
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  // Network thread. False, and nothing kept, when `plans_max` are waiting.
  bool PutPlan(StorePlan plan);
  // Either thread. The store does not know this sequence as it is now.
  void MarkLost(SequenceId sequence);
  void SetState(StoreState state);

  // Engine thread.
  StoreState state() const { return state_.load(std::memory_order_acquire); }
  std::vector<StorePlan> TakePlans();
  // Nothing while the store is away: a snapshot could not be sent.
  std::vector<SequenceId> TakeLost();
  // The engine is about to send a snapshot, or has finished with it.
  void ForgetLost(SequenceId sequence);
  // Waits for a plan that answers `report_number` or a later report. Nothing when `deadline` is
  // over, the sequence is lost or the store goes away.
  std::optional<StorePlan> Await(SequenceId sequence, uint64_t report_number,
                                 std::chrono::milliseconds deadline);

 private:
  const size_t plans_max_;
  std::atomic<StoreState> state_{StoreState::kConnecting};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<StorePlan> plans_;
  std::unordered_set<SequenceId> lost_;
};

}  // namespace palimpsest
