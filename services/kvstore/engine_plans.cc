// SPDX-License-Identifier: Apache-2.0
// From reports to plans, and from plans to acknowledgements.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "services/kvstore/engine.h"

namespace palimpsest {
namespace {

using Code = Refusal::Code;

// One message; anneals are 16 bytes each, so this stays far below limits::kMessageBytesMax.
constexpr size_t kPlansPerBatchMax = 512;
constexpr size_t kAnnealsPerBatchMax = 65536;
constexpr size_t kRefusalsPerBatchMax = 256;
constexpr size_t kNeedsSnapshotPerBatchMax = 16384;
constexpr std::chrono::hours kLagMax{1};  // what a worker claims beyond it is no measurement

// FNV-1a over what a report says: tells a repeated report from another one with its number.
class Fingerprint {
 public:
  void Mix(uint64_t value) {
    for (int i = 0; i < 8; ++i) {
      hash_ = (hash_ ^ ((value >> (8 * i)) & 0xff)) * 0x100000001b3u;
    }
  }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;
};

uint64_t FingerprintOf(const ReportMessage& report) {
  Fingerprint fingerprint;
  fingerprint.Mix(report.sealed.size());
  for (const SealedTokens& sealed : report.sealed) {
    fingerprint.Mix(uint64_t{sealed.token_count} << 8 | static_cast<uint64_t>(sealed.label) << 2 |
                    uint64_t{sealed.pinned} << 1 | uint64_t{sealed.starts_window});
  }
  fingerprint.Mix(report.refresh);
  for (const float value : report.sparsity) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    fingerprint.Mix(bits);
  }
  return fingerprint.value();
}

absl::Status CheckSparsity(const SequenceEntry& entry, const ReportMessage& report) {
  const bool wanted = report.refresh && entry.policy->wants_sparsity();
  const size_t expected = entry.sparsity_layer_count;
  if (report.sparsity.size() != expected && (wanted || !report.sparsity.empty())) {
    return absl::InvalidArgumentError(absl::StrCat("sparsity: ", report.sparsity.size(),
                                                   " values, expected ", wanted ? expected : 0));
  }
  for (const float value : report.sparsity) {
    // False for NaN, so NaN is refused.
    if (!(value >= 0.0f && value <= 1.0f)) {
      return absl::InvalidArgumentError(absl::StrCat("sparsity: ", value, " is not in [0, 1]"));
    }
  }
  return absl::OkStatus();
}

// A later plan's anneals into an earlier one's that was never sent: for a segment in both, the
// lower count holds. Anneals are independent of each other, so their order may be by position.
void MergeAnneals(const std::vector<Anneal>& later, std::vector<Anneal>& into) {
  into.insert(into.end(), later.begin(), later.end());
  std::stable_sort(into.begin(), into.end(), [](const Anneal& a, const Anneal& b) {
    return a.first_position < b.first_position;
  });
  size_t kept = 0;
  for (size_t i = 1; i < into.size(); ++i) {
    if (into[i].first_position == into[kept].first_position) {
      into[kept].keep = std::min(into[kept].keep, into[i].keep);
      into[kept].demotions = std::max(into[kept].demotions, into[i].demotions);
    } else {
      into[++kept] = into[i];
    }
  }
  if (!into.empty()) into.resize(kept + 1);
}

// Whether the worker did at least what the plan said.
bool Fulfils(std::vector<Anneal> applied, const std::vector<Anneal>& planned) {
  const auto by_position = [](const Anneal& a, const Anneal& b) {
    return a.first_position < b.first_position;
  };
  std::sort(applied.begin(), applied.end(), by_position);
  return std::all_of(planned.begin(), planned.end(), [&](const Anneal& plan) {
    const auto found = std::lower_bound(applied.begin(), applied.end(), plan, by_position);
    return found != applied.end() && found->first_position == plan.first_position &&
           found->keep <= plan.keep;
  });
}

}  // namespace

void StoreEngine::Refuse(Session& session, uint32_t handle, uint64_t number, Refusal refusal) {
  if (session.refusals.size() >= kRefusalsPerBatchMax) return;
  session.refusals.push_back({.handle = handle, .number = number, .refusal = std::move(refusal)});
}

void StoreEngine::CountOffence(Session& session, uint32_t handle, uint64_t number,
                               Refusal refusal) {
  Refuse(session, handle, number, std::move(refusal));
  if (++session.offences < limits::kInvalidReportsMax) return;
  ++counters_.sessions_fenced;
  End(session.id, {.code = Code::kOffences, .text = "too many invalid messages"});
}

void StoreEngine::AskForSnapshot(Session& session, SequenceEntry& entry) {
  if (entry.needs_snapshot) return;
  entry.needs_snapshot = true;
  entry.pending.reset();  // built on what is now known to be incomplete
  session.needs_snapshot.push_back(entry.stamp.handle);
}

void StoreEngine::Report(SessionId id, const ReportMessage& report) {
  Session* session = FindSession(id);
  if (session == nullptr) return;
  session->last_heard = clock_.Now();
  const uint32_t handle = report.stamp.handle;
  SequenceEntry* entry = FindEntry(*session, handle);
  if (entry == nullptr) {
    ++counters_.reports_stale;
    return Refuse(*session, handle, report.number,
                  {.code = Code::kNotFound, .text = "no such sequence in this session"});
  }
  if (report.stamp != entry->stamp) {
    ++counters_.reports_stale;
    return Refuse(*session, handle, report.number,
                  {.code = Code::kStaleEpoch,
                   .text = absl::StrCat("the epoch here is ", options_.epoch),
                   .value = options_.epoch});
  }
  if (entry->needs_snapshot) {
    ++counters_.reports_stale;
    return;
  }
  if (!CheckReportNumber(*session, *entry, report)) return;
  if (const absl::Status status = Record(*entry, report); !status.ok()) {
    ++counters_.reports_invalid;
    AskForSnapshot(*session, *entry);  // part of it may have been recorded
    return CountOffence(*session, handle, report.number,
                        {.code = Code::kInvalid, .text = std::string(status.message())});
  }
  entry->last_report = report.number;
  entry->last_report_fingerprint = FingerprintOf(report);
  ++counters_.reports_accepted;
  Decide(*session, *entry, report);
}

// Whether it is the report that comes next.
bool StoreEngine::CheckReportNumber(Session& session, SequenceEntry& entry,
                                    const ReportMessage& report) {
  if (report.number == entry.last_report + 1) return true;
  if (report.number > entry.last_report) {
    ++counters_.report_gaps;
    AskForSnapshot(session, entry);
    return false;
  }
  ++counters_.reports_duplicate;
  const bool comparable = report.number == entry.last_report && entry.last_report_fingerprint != 0;
  if (comparable && FingerprintOf(report) != entry.last_report_fingerprint) {
    CountOffence(session, entry.stamp.handle, report.number,
                 {.code = Code::kConflict, .text = "another report had this number"});
  }
  return false;
}

absl::Status StoreEngine::Record(SequenceEntry& entry, const ReportMessage& report) const {
  KV_RETURN_IF_ERROR(CheckSparsity(entry, report));
  for (const SealedTokens& sealed : report.sealed) {
    KV_RETURN_IF_ERROR(Validate(entry.state, sealed));
    RecordSealed(entry.state, sealed);
  }
  return absl::OkStatus();
}

void StoreEngine::Decide(Session& session, SequenceEntry& entry, const ReportMessage& report) {
  const Clock::Time before = clock_.Now();
  Plan plan =
      entry.policy->Decide(entry.state, {.refresh = report.refresh, .sparsity = report.sparsity});
  if (observer_ != nullptr) observer_->OnDecision(clock_.Now() - before);
  for (const Anneal& anneal : plan.anneals) {
    KV_CHECK(RecordAnneal(entry.state, anneal).ok());  // a policy plans only what there is
  }
  if (plan.next_label.has_value()) {
    entry.label = *plan.next_label;
    ++counters_.refreshes_by_label[Index(*plan.next_label)];
  }
  if (plan.empty() && !report.wants_answer) return;
  if (!entry.pending.has_value()) {
    ++counters_.plans_issued;
    entry.pending.emplace();
    entry.pending->stamp = entry.stamp;
    entry.pending->plan_number = ++entry.last_plan;
  } else {
    ++counters_.plans_coalesced;
  }
  PlanMessage& pending = *entry.pending;
  pending.report_number = report.number;
  pending.echo_sent_at_ns = report.sent_at_ns;
  if (plan.next_label.has_value()) pending.plan.next_label = plan.next_label;
  if (pending.plan.anneals.empty()) {
    pending.plan.anneals = std::move(plan.anneals);
  } else {
    MergeAnneals(plan.anneals, pending.plan.anneals);
  }
  Enqueue(session, entry);
}

void StoreEngine::Enqueue(Session& session, SequenceEntry& entry) {
  if (entry.queued || !entry.pending.has_value()) return;
  if (entry.unacknowledged.size() >= options_.unacknowledged_plans_max) return;
  entry.queued = true;
  session.output.push_back(entry.stamp.handle);
}

bool StoreEngine::HasOutput(SessionId id) const {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return false;
  const Session& session = found->second;
  return !session.output.empty() || !session.needs_snapshot.empty() || !session.refusals.empty();
}

PlanBatchMessage StoreEngine::TakeOutput(SessionId id) {
  PlanBatchMessage batch;
  Session* session = FindSession(id);
  if (session == nullptr) return batch;
  batch.refusals = std::exchange(session->refusals, {});
  while (!session->needs_snapshot.empty() &&
         batch.needs_snapshot.size() < kNeedsSnapshotPerBatchMax) {
    batch.needs_snapshot.push_back(session->needs_snapshot.back());
    session->needs_snapshot.pop_back();
  }
  size_t anneal_count = 0;
  while (!session->output.empty() && batch.plans.size() < kPlansPerBatchMax &&
         anneal_count < kAnnealsPerBatchMax) {
    SequenceEntry* entry = FindEntry(*session, session->output.front());
    session->output.pop_front();
    if (entry == nullptr) continue;  // released while it waited
    entry->queued = false;
    if (!entry->pending.has_value()) continue;  // dropped for want of evidence
    PlanMessage plan = *std::exchange(entry->pending, std::nullopt);
    entry->last_plan_sent = plan.plan_number;
    anneal_count += plan.plan.anneals.size();
    if (!plan.plan.anneals.empty()) {
      entry->unacknowledged.push_back(
          {.number = plan.plan_number, .issued_at = clock_.Now(), .anneals = plan.plan.anneals});
      ++plans_unacknowledged_;
    }
    batch.plans.push_back(std::move(plan));
  }
  return batch;
}

void StoreEngine::Acknowledge(SessionId id, const AckMessage& ack) {
  Session* session = FindSession(id);
  if (session == nullptr) return;
  session->last_heard = clock_.Now();
  const uint32_t handle = ack.stamp.handle;
  SequenceEntry* entry = FindEntry(*session, handle);
  if (entry == nullptr) {
    ++counters_.acks_stale;
    return Refuse(*session, handle, ack.plan_number,
                  {.code = Code::kNotFound, .text = "no such sequence in this session"});
  }
  if (ack.stamp != entry->stamp) {
    ++counters_.acks_stale;
    return Refuse(*session, handle, ack.plan_number,
                  {.code = Code::kStaleEpoch,
                   .text = absl::StrCat("the epoch here is ", options_.epoch),
                   .value = options_.epoch});
  }
  if (ack.plan_number > entry->last_plan_sent) {
    ++counters_.reports_invalid;
    return CountOffence(*session, handle, ack.plan_number,
                        {.code = Code::kInvalid, .text = "no plan has had this number"});
  }
  ConfirmPlan(*session, *entry, ack);
}

void StoreEngine::ConfirmPlan(Session& session, SequenceEntry& entry, const AckMessage& ack) {
  const auto plan =
      std::find_if(entry.unacknowledged.begin(), entry.unacknowledged.end(),
                   [&](const UnacknowledgedPlan& p) { return p.number == ack.plan_number; });
  if (plan == entry.unacknowledged.end()) {
    ++counters_.acks_duplicate;  // or of a plan with nothing to acknowledge
    return;
  }
  const Clock::Duration lag = clock_.Now() - plan->issued_at;
  ack_lag_.Add(lag);
  std::optional<std::chrono::nanoseconds> report_to_plan;
  if (ack.lag_ns >= 0 && std::chrono::nanoseconds(ack.lag_ns) <= kLagMax) {
    report_to_plan = std::chrono::nanoseconds(ack.lag_ns);
    plan_lag_.Add(*report_to_plan);
  }
  if (observer_ != nullptr) observer_->OnAcknowledged(lag, report_to_plan);
  ++counters_.plans_acknowledged;
  const bool fulfilled = Fulfils(ack.applied, plan->anneals);
  entry.unacknowledged.erase(plan);
  --plans_unacknowledged_;
  if (!fulfilled) {
    ++counters_.acks_disagreeing;
    return AskForSnapshot(session, entry);
  }
  for (const Anneal& applied : ack.applied) {
    // The worker may hold fewer than planned; what it says of other segments is no matter of ours.
    [[maybe_unused]] const absl::Status ignored = RecordAnneal(entry.state, applied);
  }
  Enqueue(session, entry);
}

}  // namespace palimpsest
