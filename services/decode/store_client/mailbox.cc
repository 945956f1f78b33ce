// SPDX-License-Identifier: Apache-2.0
#include "services/decode/store_client/mailbox.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace palimpsest {

bool Mailbox::PutPlan(StorePlan plan) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (plans_.size() >= plans_max_) return false;
    plans_.push_back(std::move(plan));
  }
  changed_.notify_one();
  return true;
}

void Mailbox::MarkLost(SequenceId sequence) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    lost_.insert(sequence);
  }
  changed_.notify_one();
}

void Mailbox::SetState(StoreState state) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    state_.store(state, std::memory_order_release);
  }
  changed_.notify_one();
}

std::vector<StorePlan> Mailbox::TakePlans() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<StorePlan> plans(std::make_move_iterator(plans_.begin()),
                               std::make_move_iterator(plans_.end()));
  plans_.clear();
  return plans;
}

std::vector<SequenceId> Mailbox::TakeLost() {
  if (state() != StoreState::kConnected) return {};
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<SequenceId> lost(lost_.begin(), lost_.end());
  lost_.clear();
  std::sort(lost.begin(), lost.end());  // the order of a hash table is nobody's business
  return lost;
}

void Mailbox::ForgetLost(SequenceId sequence) {
  const std::lock_guard<std::mutex> lock(mutex_);
  lost_.erase(sequence);
}

std::optional<StorePlan> Mailbox::Await(SequenceId sequence, uint64_t report_number,
                                        std::chrono::milliseconds deadline) {
  const auto until = std::chrono::steady_clock::now() + deadline;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    const auto found = std::find_if(plans_.begin(), plans_.end(), [&](const StorePlan& plan) {
      return plan.sequence == sequence && plan.report_number >= report_number;
    });
    if (found != plans_.end()) {
      StorePlan plan = std::move(*found);
      plans_.erase(found);
      return plan;
    }
    if (state() != StoreState::kConnected || lost_.contains(sequence)) return std::nullopt;
    if (changed_.wait_until(lock, until) == std::cv_status::timeout) return std::nullopt;
  }
}

}  // namespace palimpsest
