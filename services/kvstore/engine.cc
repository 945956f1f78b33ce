// SPDX-License-Identifier: Apache-2.0
// Sessions and registrations. Reports and plans are in engine_plans.cc.
#include "services/kvstore/engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/name.h"
#include "common/rpc/partition.h"

namespace palimpsest {
namespace {

using Code = Refusal::Code;

constexpr uint32_t kHeartbeatMsMin = 10;
constexpr uint32_t kHeartbeatMsMax = 60000;
constexpr int kSilentHeartbeatsMax = 3;
constexpr uint32_t kRetryAfterMs = 1000;
constexpr size_t kNamedCountsMax = 64;
// A number a worker may start from; leaves room to count on without ever wrapping.
constexpr uint64_t kNumberMax = uint64_t{1} << 62;

Refusal Invalid(const absl::Status& why) {
  return {.code = Code::kInvalid, .text = std::string(why.message())};
}

}  // namespace

StoreEngine::StoreEngine(StoreEngineOptions options, const Clock& clock,
                         StoreEngineObserver* observer)
    : options_(std::move(options)), clock_(clock), observer_(observer), started_at_(clock.Now()) {}

// Looks at every byte whatever the first ones say: the time it takes tells nothing.
bool StoreEngine::IsAuthorized(const std::string& credential) const {
  const std::string& expected = options_.credential;
  if (expected.empty()) return true;
  unsigned difference = credential.size() == expected.size() ? 0 : 1;
  for (size_t i = 0; i < expected.size(); ++i) {
    const char given = i < credential.size() ? credential[i] : '\0';
    difference |= static_cast<unsigned char>(given ^ expected[i]);
  }
  return difference == 0;
}

std::variant<Refusal, SessionGrant> StoreEngine::Open(const HelloMessage& hello) {
  const auto refuse = [this](Refusal refusal) {
    ++counters_.sessions_refused;
    return refusal;
  };
  if (hello.protocol_version < kProtocolVersionOldest) {
    return refuse(
        {.code = Code::kUnsupportedVersion,
         .text = absl::StrCat("the worker speaks up to version ", hello.protocol_version,
                              ", the store ", kProtocolVersionOldest, " to ", kProtocolVersion),
         .value = kProtocolVersion});
  }
  if (!IsAuthorized(hello.credential)) {
    return refuse({.code = Code::kUnauthorized, .text = "the credential is not accepted"});
  }
  if (!IsName(hello.worker_name) || hello.worker_incarnation == 0 ||
      hello.heartbeat_ms < kHeartbeatMsMin || hello.heartbeat_ms > kHeartbeatMsMax) {
    return refuse({.code = Code::kInvalid,
                   .text = "hello: a name, an incarnation that is not 0 and a heartbeat of 10 to "
                           "60000 ms are required"});
  }
  if (draining_) {
    return refuse({.code = Code::kDraining,
                   .text = "the store is about to end",
                   .retry_after_ms = kRetryAfterMs});
  }
  for (const auto& [id, session] : sessions_) {
    if (session.hello.worker_incarnation != hello.worker_incarnation) continue;
    ++counters_.sessions_fenced;
    End(id, {.code = Code::kSuperseded, .text = "the worker has opened a newer session"});
    break;
  }
  if (sessions_.size() >= options_.sessions_max) {
    return refuse({.code = Code::kLimit,
                   .text = "too many sessions",
                   .retry_after_ms = kRetryAfterMs,
                   .value = options_.sessions_max});
  }
  Session session;
  session.id = ++last_session_;
  session.hello = hello;
  session.hello.credential.clear();
  session.heartbeat = std::max(options_.heartbeat, std::chrono::milliseconds(hello.heartbeat_ms));
  session.last_heard = clock_.Now();
  const SessionGrant grant = {.session = session.id,
                              .epoch = options_.epoch,
                              .heartbeat_ms = static_cast<uint32_t>(session.heartbeat.count()),
                              .sequences_max = options_.sequences_per_session_max};
  sessions_.emplace(session.id, std::move(session));
  ++counters_.sessions_opened;
  return grant;
}

void StoreEngine::Close(SessionId id) {
  Session* session = FindSession(id);
  if (session == nullptr) return;
  while (!session->by_handle.empty()) Free(*session, session->by_handle.begin()->first);
  sessions_.erase(id);
}

void StoreEngine::End(SessionId id, Refusal reason) {
  Close(id);
  ended_.push_back({.session = id, .reason = std::move(reason)});
}

void StoreEngine::Expire() {
  const Clock::Time now = clock_.Now();
  std::vector<SessionId> silent;
  for (const auto& [id, session] : sessions_) {
    if (now - session.last_heard > kSilentHeartbeatsMax * session.heartbeat) silent.push_back(id);
  }
  for (const SessionId id : silent) {
    ++counters_.sessions_expired;
    End(id, {.code = Code::kExpired, .text = "nothing was heard for three heartbeats"});
  }
}

void StoreEngine::Heard(SessionId id) {
  if (Session* session = FindSession(id)) session->last_heard = clock_.Now();
}

void StoreEngine::Offend(SessionId id, const absl::Status& why) {
  Session* session = FindSession(id);
  if (session == nullptr) return;
  ++counters_.reports_invalid;
  CountOffence(*session, 0, 0, Invalid(why));
}

StoreEngine::Session* StoreEngine::FindSession(SessionId id) {
  const auto found = sessions_.find(id);
  return found == sessions_.end() ? nullptr : &found->second;
}

SequenceEntry* StoreEngine::FindEntry(Session& session, uint32_t handle) {
  const auto found = session.by_handle.find(handle);
  return found == session.by_handle.end() ? nullptr : found->second;
}

const SequenceEntry* StoreEngine::Find(SessionId id, uint32_t handle) const {
  const auto session = sessions_.find(id);
  if (session == sessions_.end()) return nullptr;
  const auto found = session->second.by_handle.find(handle);
  return found == session->second.by_handle.end() ? nullptr : found->second;
}

std::variant<Refusal, Stamp> StoreEngine::CheckRegistration(const Session& session,
                                                            const SnapshotMessage& snapshot) const {
  if (!IsName(snapshot.tenant)) {
    return Refusal{.code = Code::kInvalid, .text = absl::StrCat("tenant: ", kNameRule)};
  }
  if (snapshot.last_report > kNumberMax || snapshot.last_plan > kNumberMax) {
    return Refusal{.code = Code::kInvalid, .text = "lastReport, lastPlan: too large"};
  }
  if (const absl::Status status = Validate(snapshot.state); !status.ok()) return Invalid(status);
  if (session.by_sequence.contains(snapshot.sequence)) return Stamp{};  // it replaces one
  if (draining_) {
    return Refusal{.code = Code::kDraining,
                   .text = "the store is about to end",
                   .retry_after_ms = kRetryAfterMs};
  }
  const bool session_full = session.by_handle.size() >= options_.sequences_per_session_max;
  if (session_full || directory_.size() >= options_.sequences_max) {
    return Refusal{
        .code = Code::kLimit,
        .text =
            session_full ? "too many sequences in the session" : "too many sequences in the store",
        .retry_after_ms = kRetryAfterMs,
        .value = session_full ? options_.sequences_per_session_max : options_.sequences_max};
  }
  return Stamp{};
}

std::variant<Refusal, Stamp> StoreEngine::Register(SessionId id, SnapshotMessage snapshot) {
  Session* session = FindSession(id);
  if (session == nullptr) return Refusal{.code = Code::kExpired, .text = "the session has ended"};
  session->last_heard = clock_.Now();
  auto checked = CheckRegistration(*session, snapshot);
  if (std::holds_alternative<Refusal>(checked)) {
    ++counters_.sequences_refused;
    return checked;
  }
  auto policy = NewPolicy(snapshot.policy);
  if (!policy.ok()) {
    ++counters_.sequences_refused;
    return Invalid(policy.status());
  }
  if (const auto old = session->by_sequence.find(snapshot.sequence);
      old != session->by_sequence.end()) {
    Free(*session, old->second);
  }
  auto entry = std::make_unique<SequenceEntry>();
  entry->session = id;
  entry->worker_name = session->hello.worker_name;
  entry->sequence = snapshot.sequence;
  entry->tenant = std::move(snapshot.tenant);
  entry->policy_name = snapshot.policy.name;
  entry->budget_tokens = snapshot.policy.budget_tokens;
  entry->sparsity_layer_count = static_cast<uint32_t>(snapshot.policy.sparsity_layers.size());
  entry->stamp = {.handle = ++session->last_handle,
                  .partition = PartitionOf(entry->tenant, entry->sequence),
                  .epoch = options_.epoch};
  entry->policy = *std::move(policy);
  entry->state = std::move(snapshot.state);
  if (!entry->state.segments.empty()) entry->label = entry->state.segments.back().label;
  entry->last_report = snapshot.last_report;
  entry->last_plan = entry->last_plan_sent = snapshot.last_plan;
  const Stamp stamp = entry->stamp;
  session->by_sequence[entry->sequence] = stamp.handle;
  session->by_handle[stamp.handle] = directory_.Add(std::move(entry));
  ++counters_.sequences_registered;
  if (snapshot.last_report > 0) ++counters_.sequences_reregistered;
  return stamp;
}

void StoreEngine::Release(SessionId id, uint32_t handle) {
  Session* session = FindSession(id);
  if (session != nullptr && FindEntry(*session, handle) != nullptr) Free(*session, handle);
}

void StoreEngine::Free(Session& session, uint32_t handle) {
  const auto found = session.by_handle.find(handle);
  KV_CHECK(found != session.by_handle.end());
  SequenceEntry* const entry = found->second;
  plans_unacknowledged_ -= entry->unacknowledged.size();
  // What is queued for the handle is skipped when its turn comes; see TakeOutput.
  session.by_sequence.erase(entry->sequence);
  session.by_handle.erase(found);
  directory_.Remove(entry->ordinal);
  ++counters_.sequences_freed;
}

std::variant<Refusal, StoreStatus> StoreEngine::Status(const StatusQuery& query) const {
  if (!IsAuthorized(query.credential)) {
    return Refusal{.code = Code::kUnauthorized, .text = "the credential is not accepted"};
  }
  const Clock::Time now = clock_.Now();
  const auto ms = [](Clock::Duration length) {
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(length).count());
  };
  StoreStatus status;
  status.version = options_.version;
  status.epoch = options_.epoch;
  status.uptime_ms = ms(now - started_at_);
  status.draining = draining_;
  status.partitions_owned = kPartitionCount;
  for (const auto& [id, session] : sessions_) {
    status.sessions.push_back({.worker_name = session.hello.worker_name,
                               .worker_incarnation = session.hello.worker_incarnation,
                               .sequences = static_cast<uint32_t>(session.by_handle.size()),
                               .silent_ms = ms(now - session.last_heard),
                               .heartbeat_ms = static_cast<uint32_t>(session.heartbeat.count()),
                               .plans_queued = static_cast<uint32_t>(session.output.size()),
                               .offences = session.offences});
  }
  status.sequence_count = directory_.size();
  status.sequence_max = options_.sequences_max;
  status.tenants = directory_.CountByTenant(kNamedCountsMax);
  status.policies = directory_.CountByPolicy(kNamedCountsMax);
  status.counters = counters_;
  status.plan_lag = plan_lag_.Compute();
  status.ack_lag = ack_lag_.Compute();
  if (query.sequences_max == 0) return status;
  for (const SequenceEntry* entry :
       directory_.List(query.cursor, query.sequences_max, query.tenant, status.next_cursor)) {
    status.sequences.push_back(
        {.sequence = entry->sequence,
         .tenant = entry->tenant,
         .policy = entry->policy_name,
         .worker_name = entry->worker_name,
         .partition = entry->stamp.partition,
         .segments = static_cast<uint32_t>(entry->state.segments.size()),
         .sealed_tokens = entry->state.sealed_tokens(),
         .live_tokens = entry->state.live_tokens(),
         .budget_tokens = entry->budget_tokens,
         .last_report = entry->last_report,
         .last_plan = entry->last_plan,
         .plans_unacknowledged = static_cast<uint32_t>(entry->unacknowledged.size()),
         .needs_snapshot = entry->needs_snapshot,
         .label = entry->label});
  }
  return status;
}

}  // namespace palimpsest
