// SPDX-License-Identifier: Apache-2.0
// A shard's mind: sessions, the directory of their sequences, the plans. No network, no thread, no
// lock, no clock but the one it is given: one thread calls it, and the same calls give the same
// answers. The protocol it speaks is proto/kvstore.capnp.
//
// Invariants, which the tests hold against a simple model:
// * a sequence belongs to exactly one open session; a session's end frees its sequences at once
// * a report is decided on once, in order, and only on complete evidence
// * plan numbers of a sequence only rise
// * what waits for a worker is at most one plan a sequence, so a slow worker costs no memory
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/rpc/messages.h"
#include "services/kvstore/directory.h"
#include "services/kvstore/lag_window.h"

namespace palimpsest {

struct StoreEngineOptions {
  uint64_t epoch = 1;
  std::string version = "dev";
  std::string credential{};                   // empty: none is asked for
  std::chrono::milliseconds heartbeat{1000};  // the least a session agrees to
  uint32_t sequences_max = 65536;
  uint32_t sequences_per_session_max = limits::kSequencesPerSessionMax;
  uint32_t sessions_max = limits::kConnectionsMax;
  uint32_t unacknowledged_plans_max = 8;  // a sequence; more wait, merged into one
};

struct SessionGrant {
  SessionId session = 0;
  uint64_t epoch = 0;
  uint32_t heartbeat_ms = 0;
  uint32_t sequences_max = 0;
};

// A session the engine ended by itself; its worker should hear why.
struct EndedSession {
  SessionId session = 0;
  Refusal reason;
};

// Samples for histograms. Optional.
class StoreEngineObserver {
 public:
  virtual ~StoreEngineObserver() = default;
  virtual void OnDecision(std::chrono::nanoseconds duration) = 0;
  // `report_to_plan`: as the worker measured it, if it did.
  virtual void OnAcknowledged(std::chrono::nanoseconds issued_to_acknowledged,
                              std::optional<std::chrono::nanoseconds> report_to_plan) = 0;
};

class StoreEngine {
 public:
  StoreEngine(StoreEngineOptions options, const Clock& clock,
              StoreEngineObserver* observer = nullptr);
  StoreEngine(const StoreEngine&) = delete;
  StoreEngine& operator=(const StoreEngine&) = delete;

  std::variant<Refusal, SessionGrant> Open(const HelloMessage& hello);
  // The connection is gone. Harmless for a session that has ended.
  void Close(SessionId session);
  std::variant<Refusal, Stamp> Register(SessionId session, SnapshotMessage snapshot);
  // The worker dropped the sequence. Harmless for a handle that is gone.
  void Release(SessionId session, uint32_t handle);
  void Report(SessionId session, const ReportMessage& report);
  void Acknowledge(SessionId session, const AckMessage& ack);
  // Any other sign of life.
  void Heard(SessionId session);
  // A message that could not even be read.
  void Offend(SessionId session, const absl::Status& why);

  // Ends sessions that have been silent too long. Call it a few times a heartbeat.
  void Expire();
  // From now on: no new sessions, no new sequences.
  void Drain() { draining_ = true; }
  bool draining() const { return draining_; }

  bool HasOutput(SessionId session) const;
  // What is to be sent next, within the limits of one message; empty when there is nothing.
  PlanBatchMessage TakeOutput(SessionId session);
  std::vector<EndedSession> TakeEnded() { return std::exchange(ended_, {}); }

  std::variant<Refusal, StoreStatus> Status(const StatusQuery& query) const;
  const StoreCounters& counters() const { return counters_; }
  size_t session_count() const { return sessions_.size(); }
  size_t sequence_count() const { return directory_.size(); }
  size_t sequences_needing_snapshot() const { return directory_.needing_snapshot(); }
  uint64_t plans_unacknowledged() const { return plans_unacknowledged_; }
  // The state of a sequence, for tests; null when unknown.
  const SequenceEntry* Find(SessionId session, uint32_t handle) const;

 private:
  struct Session {
    SessionId id = 0;
    HelloMessage hello;
    std::chrono::milliseconds heartbeat{0};
    Clock::Time last_heard;
    uint32_t last_handle = 0;
    uint32_t offences = 0;
    std::unordered_map<uint32_t, SequenceEntry*> by_handle;
    std::unordered_map<uint64_t, uint32_t> by_sequence;
    std::deque<uint32_t> output;  // handles with a pending plan
    std::vector<uint32_t> needs_snapshot;
    std::vector<ReportRefusalMessage> refusals;
  };

  Session* FindSession(SessionId id);
  SequenceEntry* FindEntry(Session& session, uint32_t handle);
  bool IsAuthorized(const std::string& credential) const;
  std::variant<Refusal, Stamp> CheckRegistration(const Session& session,
                                                 const SnapshotMessage& snapshot) const;
  void Free(Session& session, uint32_t handle);
  void End(SessionId id, Refusal reason);
  void Refuse(Session& session, uint32_t handle, uint64_t number, Refusal refusal);
  // Counts an offence, and ends the session at the last one allowed.
  void CountOffence(Session& session, uint32_t handle, uint64_t number, Refusal refusal);
  void AskForSnapshot(Session& session, SequenceEntry& entry);
  bool CheckReportNumber(Session& session, SequenceEntry& entry, const ReportMessage& report);
  absl::Status Record(SequenceEntry& entry, const ReportMessage& report) const;
  void Decide(Session& session, SequenceEntry& entry, const ReportMessage& report);
  void Enqueue(Session& session, SequenceEntry& entry);
  void ConfirmPlan(Session& session, SequenceEntry& entry, const AckMessage& ack);

  const StoreEngineOptions options_;
  const Clock& clock_;
  StoreEngineObserver* const observer_;
  const Clock::Time started_at_;
  bool draining_ = false;
  SessionId last_session_ = 0;
  std::map<SessionId, Session> sessions_;
  Directory directory_;
  std::vector<EndedSession> ended_;
  StoreCounters counters_;
  uint64_t plans_unacknowledged_ = 0;
  LagWindow plan_lag_;
  LagWindow ack_lag_;
};

}  // namespace palimpsest
