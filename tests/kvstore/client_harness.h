// SPDX-License-Identifier: Apache-2.0
// A worker's side played by hand, against an in-process server or a real process.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "services/cli/client/store_client.h"
#include "services/decode/store_client/store_client.h"
#include "tests/kvstore/store_fixture.h"

namespace palimpsest {

using std::chrono::milliseconds;

inline bool WaitFor(const std::function<bool()>& condition, milliseconds deadline) {
  const auto until = std::chrono::steady_clock::now() + deadline;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(milliseconds(2));
  }
  return true;
}

// What `palimpsest status` would be told.
inline absl::StatusOr<StoreStatus> AskStatus(uint16_t port, const StatusQuery& query = {}) {
  absl::StatusOr<StoreStatus> status = absl::UnknownError("no answer");
  cli::WithEventLoop([&](cli::EventLoop& loop) {
    status = cli::AskStore(&loop, {.port = port}, query, std::chrono::seconds(20));
    return 0;
  });
  return status;
}

class CountingObserver final : public StoreClientObserver {
 public:
  void OnState(StoreState state, std::string_view why) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (state == StoreState::kConnected) ++connections;
    if (!why.empty()) why_ = why;
  }
  void OnDrop(StoreClientDrop drop, uint64_t count) override {
    drops[static_cast<int>(drop)] += count;
  }
  void OnPlanLag(std::chrono::nanoseconds) override { ++plans; }
  void OnHeartbeat(std::chrono::nanoseconds) override { ++heartbeats; }

  uint64_t dropped(StoreClientDrop drop) const { return drops[static_cast<int>(drop)]; }
  std::string why() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return why_;
  }

  std::atomic<uint64_t> connections{0};
  std::atomic<uint64_t> plans{0};
  std::atomic<uint64_t> heartbeats{0};
  std::atomic<uint64_t> drops[kStoreClientDropCount] = {};

 private:
  std::mutex mutex_;
  std::string why_;
};

// One sequence of a worker, with its counting of reports.
class PlayedSequence {
 public:
  PlayedSequence(ControlPlane& control, SequenceId id) : control_(control), id_(id), local_(id) {}

  void Register() {
    control_.Register({.sequence = id_,
                       .tenant = "acme",
                       .policy = local_.spec(),
                       .state = local_.state(),
                       .report_number = report_number_});
  }

  // Reports one boundary, waits for the plan, compares it with the policy run locally, applies and
  // acknowledges. False: no plan came; then the local plan was applied, as the fallback does.
  bool Step(milliseconds deadline) {
    const Boundary boundary = local_.Next();
    const Plan expected = local_.Decide(boundary);
    Send(boundary);
    const auto answer = control_.AwaitPlan(id_, report_number_, deadline);
    if (!answer.has_value()) {
      local_.Apply(expected);
      return false;
    }
    EXPECT_EQ(answer->report_number, report_number_);
    EXPECT_EQ(answer->plan, expected) << "sequence " << id_ << " report " << report_number_;
    EXPECT_GT(answer->plan_number, last_plan_);
    last_plan_ = answer->plan_number;
    control_.Acknowledge({.sequence = id_,
                          .plan_number = answer->plan_number,
                          .applied = local_.Apply(answer->plan)});
    return true;
  }

  // Without waiting; the local plan is applied at once. Returns how long the control plane took.
  std::chrono::nanoseconds StepAsync() {
    const Boundary boundary = local_.Next();
    const auto before = std::chrono::steady_clock::now();
    Send(boundary);
    control_.Acknowledge({.sequence = id_, .plan_number = 0, .applied = {}});
    const auto took = std::chrono::steady_clock::now() - before;
    local_.Apply(local_.Decide(boundary));
    return took;
  }

  SequenceId id() const { return id_; }
  uint64_t report_number() const { return report_number_; }
  uint64_t last_plan() const { return last_plan_; }

 private:
  void Send(const Boundary& boundary) {
    control_.Report({.sequence = id_,
                     .report_number = ++report_number_,
                     .sealed = {boundary.sealed},
                     .refresh = boundary.refresh,
                     .sparsity = boundary.sparsity,
                     .wants_answer = true});
  }

  ControlPlane& control_;
  const SequenceId id_;
  LocalSequence local_;
  uint64_t report_number_ = 0;
  uint64_t last_plan_ = 0;
};

// A second between heartbeats: three seconds are enough for a busy machine. Tests of the heartbeats
// themselves ask for less.
inline StoreClientOptions ClientOptions(uint16_t port, StoreClientObserver* observer,
                                        milliseconds heartbeat = milliseconds(1000)) {
  StoreClientOptions options;
  options.endpoint = "127.0.0.1:" + std::to_string(port);
  options.worker_name = "test";
  options.heartbeat = heartbeat;
  options.backoff_min = milliseconds(10);
  options.backoff_max = milliseconds(100);
  options.observer = observer;
  return options;
}

inline bool WaitConnected(ControlPlane& control, milliseconds deadline = milliseconds(10000)) {
  return WaitFor([&] { return control.state() == StoreState::kConnected; }, deadline);
}

}  // namespace palimpsest
