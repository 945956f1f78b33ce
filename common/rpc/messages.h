// SPDX-License-Identifier: Apache-2.0
// The control plane's messages as plain values, for code that knows nothing of Cap'n Proto: the
// store's engine, the store client's callers, tests. What each field means is said once, in
// proto/kvstore.capnp; wire.h converts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/policy/policy.h"
#include "common/policy/sequence_state.h"

namespace palimpsest {

inline constexpr uint32_t kProtocolVersion = 1;
inline constexpr uint32_t kProtocolVersionOldest = 1;

struct Refusal {
  enum class Code : uint8_t {
    kUnspecified,
    kUnsupportedVersion,  // value: the answering side's newest
    kUnauthorized,
    kDraining,
    kLimit,       // value: the maximum
    kStaleEpoch,  // value: the current epoch
    kNotOwner,    // value: the partition
    kNotFound,
    kInvalid,
    kConflict,
    kSuperseded,
    kExpired,
    kOffences,
  };
  Code code = Code::kUnspecified;
  std::string text{};
  uint32_t retry_after_ms = 0;
  uint64_t value = 0;
  bool operator==(const Refusal&) const = default;
};

// "stale_epoch": for logs and metrics.
std::string_view Name(Refusal::Code code);
// "stale_epoch: the epoch here is 7"
std::string ToString(const Refusal& refusal);

struct HelloMessage {
  uint32_t protocol_version = kProtocolVersion;
  std::string worker_name{};
  uint64_t worker_incarnation = 0;
  std::string credential{};
  uint32_t heartbeat_ms = 1000;
};

struct SnapshotMessage {
  uint64_t sequence = 0;
  std::string tenant{};
  PolicySpec policy{};
  SequenceState state{};
  uint64_t last_report = 0;
  uint64_t last_plan = 0;
};

// Which registration, and under which ownership.
struct Stamp {
  uint32_t handle = 0;
  uint16_t partition = 0;
  uint64_t epoch = 0;
  bool operator==(const Stamp&) const = default;
};

struct ReportMessage {
  Stamp stamp{};
  uint64_t number = 0;
  std::vector<SealedTokens> sealed{};
  bool refresh = false;
  std::vector<float> sparsity{};
  bool wants_answer = false;
  int64_t sent_at_ns = 0;
};

struct PlanMessage {
  Stamp stamp{};
  uint64_t plan_number = 0;
  uint64_t report_number = 0;
  Plan plan{};
  int64_t echo_sent_at_ns = 0;
};

struct AckMessage {
  Stamp stamp{};
  uint64_t plan_number = 0;
  std::vector<Anneal> applied{};
  int64_t lag_ns = -1;
};

struct ReportRefusalMessage {
  uint32_t handle = 0;
  uint64_t number = 0;
  Refusal refusal{};
};

struct PlanBatchMessage {
  std::vector<PlanMessage> plans{};
  std::vector<uint32_t> needs_snapshot{};
  std::vector<ReportRefusalMessage> refusals{};
  bool empty() const { return plans.empty() && needs_snapshot.empty() && refusals.empty(); }
};

struct StatusQuery {
  std::string credential{};
  uint32_t sequences_max = 0;
  uint64_t cursor = 0;
  std::string tenant{};
};

struct SessionStatus {
  std::string worker_name{};
  uint64_t worker_incarnation = 0;
  uint32_t sequences = 0;
  uint64_t silent_ms = 0;
  uint32_t heartbeat_ms = 0;
  uint32_t plans_queued = 0;
  uint32_t offences = 0;
};

struct NamedCount {
  std::string name{};
  uint64_t count = 0;
};

struct Quantiles {
  uint64_t count = 0;
  uint64_t p50_ns = 0;
  uint64_t p90_ns = 0;
  uint64_t p99_ns = 0;
  uint64_t max_ns = 0;
};

struct SequenceStatus {
  uint64_t sequence = 0;
  std::string tenant{};
  std::string policy{};
  std::string worker_name{};
  uint16_t partition = 0;
  uint32_t segments = 0;
  uint64_t sealed_tokens = 0;
  uint64_t live_tokens = 0;
  uint32_t budget_tokens = 0;
  uint64_t last_report = 0;
  uint64_t last_plan = 0;
  uint32_t plans_unacknowledged = 0;
  bool needs_snapshot = false;
  Thought label = Thought::kReasoning;
};

// Since the store's start. Every count only rises.
struct StoreCounters {
  uint64_t reports_accepted = 0;
  uint64_t reports_duplicate = 0;
  uint64_t reports_stale = 0;
  uint64_t reports_invalid = 0;
  uint64_t report_gaps = 0;
  uint64_t refreshes_by_label[kThoughtCount] = {};
  uint64_t plans_issued = 0;
  uint64_t plans_acknowledged = 0;
  uint64_t plans_coalesced = 0;
  uint64_t acks_duplicate = 0;
  uint64_t acks_stale = 0;
  uint64_t acks_disagreeing = 0;
  uint64_t sequences_registered = 0;
  uint64_t sequences_reregistered = 0;  // of those: with reports behind them
  uint64_t sequences_refused = 0;
  uint64_t sequences_freed = 0;
  uint64_t sessions_opened = 0;
  uint64_t sessions_refused = 0;
  uint64_t sessions_expired = 0;
  uint64_t sessions_fenced = 0;  // ended for offences, or superseded
};

struct StoreStatus {
  std::string version{};
  uint64_t epoch = 0;
  uint64_t uptime_ms = 0;
  bool draining = false;
  uint16_t partitions_owned = 0;
  std::vector<SessionStatus> sessions{};
  uint64_t sequence_count = 0;
  uint64_t sequence_max = 0;
  std::vector<NamedCount> tenants{};
  std::vector<NamedCount> policies{};
  StoreCounters counters{};
  Quantiles plan_lag{};
  Quantiles ack_lag{};
  std::vector<SequenceStatus> sequences{};
  uint64_t next_cursor = 0;
};

}  // namespace palimpsest
