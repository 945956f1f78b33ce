// SPDX-License-Identifier: Apache-2.0
// The status half of wire.h: what `palimpsest status` asks and hears.
#include <algorithm>
#include <utility>

#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/rpc/wire.h"
#include "common/rpc/wire_fields.h"

namespace palimpsest {
namespace {

using wire_fields::CheckList;
using wire_fields::CutText;
using wire_fields::ReadText;
using wire_fields::ReadThought;
using wire_fields::ToWire;

constexpr size_t kListedSequencesMax = 1000;
constexpr size_t kNamedCountsMax = 64;

Quantiles ReadQuantiles(wire::Quantiles::Reader reader) {
  return {.count = reader.getCount(),
          .p50_ns = reader.getP50Ns(),
          .p90_ns = reader.getP90Ns(),
          .p99_ns = reader.getP99Ns(),
          .max_ns = reader.getMaxNs()};
}

void WriteQuantiles(const Quantiles& quantiles, wire::Quantiles::Builder builder) {
  builder.setCount(quantiles.count);
  builder.setP50Ns(quantiles.p50_ns);
  builder.setP90Ns(quantiles.p90_ns);
  builder.setP99Ns(quantiles.p99_ns);
  builder.setMaxNs(quantiles.max_ns);
}

absl::StatusOr<std::vector<NamedCount>> ReadCounts(capnp::List<wire::NamedCount>::Reader list,
                                                   const char* field) {
  KV_RETURN_IF_ERROR(CheckList(list, kNamedCountsMax, field));
  std::vector<NamedCount> counts;
  for (const auto item : list) {
    NamedCount count;
    KV_ASSIGN_OR_RETURN(count.name, ReadText(item.getName(), field));
    count.count = item.getCount();
    counts.push_back(std::move(count));
  }
  return counts;
}

void WriteCounts(const std::vector<NamedCount>& counts,
                 capnp::List<wire::NamedCount>::Builder list) {
  for (unsigned i = 0; i < list.size(); ++i) {
    list[i].setName(CutText(counts[i].name));
    list[i].setCount(counts[i].count);
  }
}

absl::StatusOr<SessionStatus> ReadSession(wire::SessionStatus::Reader reader) {
  SessionStatus session;
  KV_ASSIGN_OR_RETURN(session.worker_name, ReadText(reader.getWorkerName(), "workerName"));
  session.worker_incarnation = reader.getWorkerIncarnation();
  session.sequences = reader.getSequences();
  session.silent_ms = reader.getSilentMs();
  session.heartbeat_ms = reader.getHeartbeatMs();
  session.plans_queued = reader.getPlansQueued();
  session.offences = reader.getOffences();
  return session;
}

void WriteSession(const SessionStatus& session, wire::SessionStatus::Builder builder) {
  builder.setWorkerName(CutText(session.worker_name));
  builder.setWorkerIncarnation(session.worker_incarnation);
  builder.setSequences(session.sequences);
  builder.setSilentMs(session.silent_ms);
  builder.setHeartbeatMs(session.heartbeat_ms);
  builder.setPlansQueued(session.plans_queued);
  builder.setOffences(session.offences);
}

absl::StatusOr<SequenceStatus> ReadSequence(wire::SequenceStatus::Reader reader) {
  SequenceStatus sequence;
  sequence.sequence = reader.getSequence();
  KV_ASSIGN_OR_RETURN(sequence.tenant, ReadText(reader.getTenant(), "tenant"));
  KV_ASSIGN_OR_RETURN(sequence.policy, ReadText(reader.getPolicy(), "policy"));
  KV_ASSIGN_OR_RETURN(sequence.worker_name, ReadText(reader.getWorkerName(), "workerName"));
  sequence.partition = reader.getPartition();
  sequence.segments = reader.getSegments();
  sequence.sealed_tokens = reader.getSealedTokens();
  sequence.live_tokens = reader.getLiveTokens();
  sequence.budget_tokens = reader.getBudgetTokens();
  sequence.last_report = reader.getLastReport();
  sequence.last_plan = reader.getLastPlan();
  sequence.plans_unacknowledged = reader.getPlansUnacknowledged();
  sequence.needs_snapshot = reader.getNeedsSnapshot();
  KV_ASSIGN_OR_RETURN(sequence.label, ReadThought(reader.getLabel(), "label"));
  return sequence;
}

void WriteSequence(const SequenceStatus& sequence, wire::SequenceStatus::Builder builder) {
  builder.setSequence(sequence.sequence);
  builder.setTenant(CutText(sequence.tenant));
  builder.setPolicy(CutText(sequence.policy));
  builder.setWorkerName(CutText(sequence.worker_name));
  builder.setPartition(sequence.partition);
  builder.setSegments(sequence.segments);
  builder.setSealedTokens(sequence.sealed_tokens);
  builder.setLiveTokens(sequence.live_tokens);
  builder.setBudgetTokens(sequence.budget_tokens);
  builder.setLastReport(sequence.last_report);
  builder.setLastPlan(sequence.last_plan);
  builder.setPlansUnacknowledged(sequence.plans_unacknowledged);
  builder.setNeedsSnapshot(sequence.needs_snapshot);
  builder.setLabel(ToWire(sequence.label));
}

void ReadCounters(wire::StoreStatus::Reader reader, StoreCounters& counters) {
  counters.reports_accepted = reader.getReportsAccepted();
  counters.reports_duplicate = reader.getReportsDuplicate();
  counters.reports_stale = reader.getReportsStale();
  counters.reports_invalid = reader.getReportsInvalid();
  counters.report_gaps = reader.getReportGaps();
  counters.plans_issued = reader.getPlansIssued();
  counters.plans_acknowledged = reader.getPlansAcknowledged();
  counters.plans_coalesced = reader.getPlansCoalesced();
  counters.sessions_expired = reader.getSessionsExpired();
}

void WriteCounters(const StoreCounters& counters, wire::StoreStatus::Builder builder) {
  builder.setReportsAccepted(counters.reports_accepted);
  builder.setReportsDuplicate(counters.reports_duplicate);
  builder.setReportsStale(counters.reports_stale);
  builder.setReportsInvalid(counters.reports_invalid);
  builder.setReportGaps(counters.report_gaps);
  builder.setPlansIssued(counters.plans_issued);
  builder.setPlansAcknowledged(counters.plans_acknowledged);
  builder.setPlansCoalesced(counters.plans_coalesced);
  builder.setSessionsExpired(counters.sessions_expired);
}

template <typename Items>
unsigned Bounded(const Items& items, size_t items_max) {
  return static_cast<unsigned>(std::min(items.size(), items_max));
}

}  // namespace

absl::StatusOr<StatusQuery> ReadStatusQuery(wire::StatusRequest::Reader reader) {
  StatusQuery query;
  KV_ASSIGN_OR_RETURN(query.credential, ReadText(reader.getCredential(), "credential"));
  query.sequences_max =
      std::min<uint32_t>(reader.getSequencesMax(), static_cast<uint32_t>(kListedSequencesMax));
  query.cursor = reader.getCursor();
  KV_ASSIGN_OR_RETURN(query.tenant, ReadText(reader.getTenant(), "tenant"));
  return query;
}

void Write(const StatusQuery& query, wire::StatusRequest::Builder builder) {
  builder.setCredential(CutText(query.credential));
  builder.setSequencesMax(query.sequences_max);
  builder.setCursor(query.cursor);
  builder.setTenant(CutText(query.tenant));
}

absl::StatusOr<StoreStatus> ReadStoreStatus(wire::StoreStatus::Reader reader) {
  StoreStatus status;
  KV_ASSIGN_OR_RETURN(status.version, ReadText(reader.getVersion(), "version"));
  status.epoch = reader.getEpoch();
  status.uptime_ms = reader.getUptimeMs();
  status.draining = reader.getDraining();
  status.partitions_owned = reader.getPartitionsOwned();
  KV_RETURN_IF_ERROR(CheckList(reader.getSessions(), limits::kConnectionsMax, "sessions"));
  for (const auto session : reader.getSessions()) {
    KV_ASSIGN_OR_RETURN(SessionStatus one, ReadSession(session));
    status.sessions.push_back(std::move(one));
  }
  status.sequence_count = reader.getSequenceCount();
  status.sequence_max = reader.getSequenceMax();
  KV_ASSIGN_OR_RETURN(status.tenants, ReadCounts(reader.getTenants(), "tenants"));
  KV_ASSIGN_OR_RETURN(status.policies, ReadCounts(reader.getPolicies(), "policies"));
  ReadCounters(reader, status.counters);
  status.plan_lag = ReadQuantiles(reader.getPlanLag());
  status.ack_lag = ReadQuantiles(reader.getAckLag());
  KV_RETURN_IF_ERROR(CheckList(reader.getSequences(), kListedSequencesMax, "sequences"));
  for (const auto sequence : reader.getSequences()) {
    KV_ASSIGN_OR_RETURN(SequenceStatus one, ReadSequence(sequence));
    status.sequences.push_back(std::move(one));
  }
  status.next_cursor = reader.getNextCursor();
  return status;
}

void Write(const StoreStatus& status, wire::StoreStatus::Builder builder) {
  builder.setVersion(CutText(status.version));
  builder.setEpoch(status.epoch);
  builder.setUptimeMs(status.uptime_ms);
  builder.setDraining(status.draining);
  builder.setPartitionsOwned(status.partitions_owned);
  auto sessions = builder.initSessions(Bounded(status.sessions, limits::kConnectionsMax));
  for (unsigned i = 0; i < sessions.size(); ++i) WriteSession(status.sessions[i], sessions[i]);
  builder.setSequenceCount(status.sequence_count);
  builder.setSequenceMax(status.sequence_max);
  WriteCounts(status.tenants, builder.initTenants(Bounded(status.tenants, kNamedCountsMax)));
  WriteCounts(status.policies, builder.initPolicies(Bounded(status.policies, kNamedCountsMax)));
  WriteCounters(status.counters, builder);
  WriteQuantiles(status.plan_lag, builder.initPlanLag());
  WriteQuantiles(status.ack_lag, builder.initAckLag());
  auto sequences = builder.initSequences(Bounded(status.sequences, kListedSequencesMax));
  for (unsigned i = 0; i < sequences.size(); ++i) WriteSequence(status.sequences[i], sequences[i]);
  builder.setNextCursor(status.next_cursor);
}

}  // namespace palimpsest
