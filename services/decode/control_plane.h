// SPDX-License-Identifier: Apache-2.0
// What the engine tells the store and hears from it. Every call is made on the engine's thread and
// none of them waits for the network, but for AwaitPlan, which only lockstep mode uses.
//
// Reports of one sequence are numbered from 1. A plan names the report it answers. Whatever is
// lost costs compression, never correctness: when the store is away, or a queue is full, reports
// are dropped and counted, and the sequence is registered again from its snapshot once the store
// answers (the implementation asks for one through `NeedsSnapshot`).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/policy/policy.h"
#include "common/policy/sequence_state.h"

namespace palimpsest {

using SequenceId = uint64_t;  // chosen by the worker, unique within its incarnation

struct SequenceSnapshot {
  SequenceId sequence = 0;
  std::string tenant;
  PolicySpec policy;
  SequenceState state;
  uint64_t report_number = 0;  // the last report the snapshot includes
};

struct SequenceReport {
  SequenceId sequence = 0;
  uint64_t report_number = 0;
  std::vector<SealedTokens> sealed;  // since the report before
  bool refresh = false;
  std::vector<float> sparsity;  // at a refresh, per calibrated layer
  bool wants_answer = false;    // lockstep: answer even with an empty plan
};

struct StorePlan {
  SequenceId sequence = 0;
  uint64_t plan_number = 0;    // rises within a sequence; a number seen before is a duplicate
  uint64_t report_number = 0;  // the report it answers
  Plan plan;
};

struct PlanAck {
  SequenceId sequence = 0;
  uint64_t plan_number = 0;
  std::vector<Anneal> applied;  // with `keep` = the count the segment now has
};

enum class StoreState : uint8_t { kNone, kConnecting, kConnected };

class ControlPlane {
 public:
  virtual ~ControlPlane() = default;

  virtual StoreState state() const = 0;
  virtual void Register(SequenceSnapshot snapshot) = 0;
  virtual void Report(SequenceReport report) = 0;
  virtual void Acknowledge(PlanAck ack) = 0;
  virtual void Finish(SequenceId sequence) = 0;

  // Plans that have arrived since the last call, oldest first.
  virtual std::vector<StorePlan> Poll() = 0;
  // Sequences the store has lost or missed reports of; answer each with Register.
  virtual std::vector<SequenceId> NeedsSnapshot() = 0;
  // Lockstep: waits for the plan that answers `report_number`, at most `deadline`. Nothing when the
  // store is away or late. Other sequences' plans stay queued for Poll.
  virtual std::optional<StorePlan> AwaitPlan(SequenceId sequence, uint64_t report_number,
                                             std::chrono::milliseconds deadline) = 0;
};

}  // namespace palimpsest
