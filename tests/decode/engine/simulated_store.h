// SPDX-License-Identifier: Apache-2.0
// A store without a network: plans at once with the real policies. Its delay and absences are set
// by the test.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "services/decode/control_plane.h"

namespace palimpsest {

class SimulatedStore final : public ControlPlane {
 public:
  StoreState present = StoreState::kConnected;
  bool answers = true;  // false: takes everything, says nothing
  int delay_polls = 0;  // polls before a plan arrives
  uint64_t reports = 0, plans = 0, registrations = 0, acknowledgements = 0, finished = 0;

  StoreState state() const override { return present; }

  void Register(SequenceSnapshot snapshot) override {
    ++registrations;
    Known& known = known_[snapshot.sequence];
    auto policy = NewPolicy(snapshot.policy);
    KV_CHECK(policy.ok());
    known.policy = *std::move(policy);
    known.state = snapshot.state;
    // Plans for what it was told before say nothing about this.
    std::erase_if(
        queue_, [&](const auto& waiting) { return waiting.second.sequence == snapshot.sequence; });
  }

  void Report(SequenceReport report) override {
    ++reports;
    if (!answers || present != StoreState::kConnected) return;
    Known& known = known_.at(report.sequence);
    for (const SealedTokens& sealed : report.sealed) RecordSealed(known.state, sealed);
    Plan plan =
        known.policy->Decide(known.state, {.refresh = report.refresh, .sparsity = report.sparsity});
    for (const Anneal& anneal : plan.anneals) KV_CHECK(RecordAnneal(known.state, anneal).ok());
    if (plan.empty() && !report.wants_answer) return;
    queue_.push_back({delay_polls,
                      {.sequence = report.sequence,
                       .plan_number = ++plans,
                       .report_number = report.report_number,
                       .plan = std::move(plan)}});
  }

  void Acknowledge(PlanAck ack) override {
    ++acknowledgements;
    const auto known = known_.find(ack.sequence);
    KV_CHECK(known != known_.end());
    for (const Anneal& applied : ack.applied) {
      for (const Segment& segment : known->second.state.segments) {
        if (segment.first_position == applied.first_position) {
          counts_agree = counts_agree && applied.keep >= segment.live_count;
          fewer_than_told = fewer_than_told || applied.keep < segment.live_count;
        }
      }
      // As the store does: the worker may hold fewer than was planned.
      KV_CHECK(RecordAnneal(known->second.state, applied).ok());
    }
  }

  void Finish(SequenceId sequence) override {
    ++finished;
    known_.erase(sequence);
  }

  std::vector<StorePlan> Poll() override {
    std::vector<StorePlan> ready;
    for (auto& item : queue_) --item.first;
    while (!queue_.empty() && queue_.front().first < 0) {
      ready.push_back(std::move(queue_.front().second));
      queue_.pop_front();
    }
    return ready;
  }

  std::vector<SequenceId> NeedsSnapshot() override { return std::exchange(lost, {}); }

  std::optional<StorePlan> AwaitPlan(SequenceId sequence, uint64_t report_number,
                                     std::chrono::milliseconds) override {
    for (auto it = queue_.begin(); it != queue_.end(); ++it) {
      if (it->second.sequence != sequence || it->second.report_number != report_number) continue;
      StorePlan plan = std::move(it->second);
      queue_.erase(it);
      return plan;
    }
    return std::nullopt;
  }

  std::vector<SequenceId> lost;  // to be asked for at the next NeedsSnapshot
  bool counts_agree = true;
  bool fewer_than_told = false;  // a worker once held fewer than plans had come to

 private:
  struct Known {
    std::unique_ptr<const Policy> policy;
    SequenceState state;
  };
  std::map<SequenceId, Known> known_;
  std::deque<std::pair<int, StorePlan>> queue_;
};

}  // namespace palimpsest
