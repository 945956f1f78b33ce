// SPDX-License-Identifier: Apache-2.0
#include "services/kvstore/store_observer.h"

#include <string>

namespace palimpsest {
namespace {

double Seconds(std::chrono::nanoseconds length) {
  return std::chrono::duration<double>(length).count();
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

RpcMethod ToMethod(StoreCall call) {
  switch (call) {
    case StoreCall::kOpen:
      return RpcMethod::kOpen;
    case StoreCall::kStatus:
      return RpcMethod::kStatus;
    case StoreCall::kRegister:
      return RpcMethod::kRegister;
    case StoreCall::kReport:
      return RpcMethod::kReport;
    case StoreCall::kAcknowledge:
      return RpcMethod::kAcknowledge;
    case StoreCall::kHeartbeat:
      return RpcMethod::kHeartbeat;
    case StoreCall::kPush:
      return RpcMethod::kPush;
    case StoreCall::kClose:
      return RpcMethod::kClose;
  }
  return RpcMethod::kStatus;
}

RpcCode ToCode(std::optional<Refusal::Code> refusal) {
  if (!refusal.has_value()) return RpcCode::kOk;
  switch (*refusal) {
    case Refusal::Code::kInvalid:
      return RpcCode::kInvalid;
    case Refusal::Code::kNotFound:
      return RpcCode::kNotFound;
    case Refusal::Code::kStaleEpoch:
      return RpcCode::kStaleEpoch;
    case Refusal::Code::kConflict:
      return RpcCode::kConflict;
    default:
      return RpcCode::kRefused;
  }
}

ConnectionRejection ToRejection(StoreRejection rejection) {
  switch (rejection) {
    case StoreRejection::kFraming:
      return ConnectionRejection::kFraming;
    case StoreRejection::kVersion:
      return ConnectionRejection::kVersion;
    case StoreRejection::kCredential:
      return ConnectionRejection::kRole;
    case StoreRejection::kConnectionLimit:
    case StoreRejection::kTimeout:
      break;
  }
  return ConnectionRejection::kLimit;
}

AdmissionRejection ToAdmission(Refusal::Code code) {
  if (code == Refusal::Code::kDraining) return AdmissionRejection::kDraining;
  if (code == Refusal::Code::kLimit) return AdmissionRejection::kLimit;
  return AdmissionRejection::kInvalid;
}

class MetricsObserver final : public StoreObserver {
 public:
  MetricsObserver(StoreMetrics* metrics, Log* log) : metrics_(*metrics), log_(*log) {}

  void SetHealth(HealthServer* health) override { health_ = health; }
  uint64_t sequences() const override { return sequences_; }
  uint64_t sessions() const override { return sessions_; }

  void OnDecision(std::chrono::nanoseconds duration) override {
    metrics_.classification_duration_seconds.Observe(Seconds(duration));
  }

  void OnAcknowledged(std::chrono::nanoseconds issued_to_acknowledged,
                      std::optional<std::chrono::nanoseconds> report_to_plan) override {
    metrics_.process.order_duration_seconds[OrderKind::kEvict].Observe(
        Seconds(issued_to_acknowledged));
    // The worker's clock alone can tell; it includes the way back.
    if (report_to_plan.has_value()) metrics_.stats_lag_seconds.Observe(Seconds(*report_to_plan));
  }

  void OnCall(StoreCall call, std::optional<Refusal::Code> refusal) override {
    metrics_.process.rpc_requests_total[{ToMethod(call), ToCode(refusal)}].Increment();
    if (call == StoreCall::kRegister && refusal.has_value()) {
      metrics_.process.admission_rejections_total[ToAdmission(*refusal)].Increment();
    }
  }

  void OnHeartbeat(std::chrono::nanoseconds round_trip) override {
    metrics_.process.heartbeat_rtt_seconds.Observe(Seconds(round_trip));
  }

  void OnRejected(StoreRejection rejection) override {
    metrics_.process.connection_rejections_total[ToRejection(rejection)].Increment();
  }

  void OnSessionOpened(std::string_view worker, SessionId session) override {
    metrics_.process.peer_up.Set(View(worker), true);
    log_.Info("session opened", {{"worker", View(worker)}, {"session", session}});
  }

  void OnSessionEnded(std::string_view worker, SessionId session, std::string_view reason,
                      uint64_t sequences_freed) override {
    if (sequences_freed == 0) {
      metrics_.process.peer_up.Remove(View(worker));
    } else {
      metrics_.process.peer_up.Set(View(worker), false);
    }
    log_.Info("session ended", {{"worker", View(worker)},
                                {"session", session},
                                {"reason", View(reason)},
                                {"sequences_freed", sequences_freed}});
  }

  void OnTick(const StoreEngine& engine, uint32_t connections,
              std::chrono::nanoseconds late) override {
    if (HealthServer* health = health_) health->Touch();
    sequences_ = engine.sequence_count();
    sessions_ = engine.session_count();
    const double waiting = static_cast<double>(engine.sequences_needing_snapshot());
    metrics_.sequences[StoreSequenceState::kAwaitingSnapshot].Set(waiting);
    metrics_.sequences[StoreSequenceState::kTracked].Set(
        static_cast<double>(engine.sequence_count()) - waiting);
    metrics_.process.rpc_connections.Set(connections);
    metrics_.process.event_loop_lag_seconds.Observe(Seconds(late));
    metrics_.process.orders_inflight.Set(static_cast<double>(engine.plans_unacknowledged()));
    PublishCounters(engine.counters());
  }

 private:
  // What was counted since the last tick.
  void PublishCounters(const StoreCounters& now) {
    const auto add = [this, &now](prometheus::Counter& counter, auto member) {
      counter.Increment(static_cast<double>(now.*member - published_.*member));
    };
    auto& batches = metrics_.process.stats_batches_total;
    add(batches[StatsResult::kOk], &StoreCounters::reports_accepted);
    add(batches[StatsResult::kDuplicate], &StoreCounters::reports_duplicate);
    add(batches[StatsResult::kStale], &StoreCounters::reports_stale);
    add(batches[StatsResult::kInvalid], &StoreCounters::reports_invalid);
    add(metrics_.stats_gaps_total, &StoreCounters::report_gaps);
    auto& orders = metrics_.process.orders_total;
    add(orders[{OrderKind::kEvict, OrderResult::kApplied}], &StoreCounters::plans_acknowledged);
    add(orders[{OrderKind::kEvict, OrderResult::kDuplicate}], &StoreCounters::acks_duplicate);
    add(orders[{OrderKind::kEvict, OrderResult::kStaleEpoch}], &StoreCounters::acks_stale);
    add(orders[{OrderKind::kEvict, OrderResult::kFailed}], &StoreCounters::acks_disagreeing);
    add(metrics_.process.lease_expirations_total[PeerRole::kWorker],
        &StoreCounters::sessions_expired);
    add(metrics_.process.reregistrations_total, &StoreCounters::sequences_reregistered);
    for (const Thought thought : kThoughts) {
      metrics_.thoughts_classified_total[thought].Increment(static_cast<double>(
          now.refreshes_by_label[Index(thought)] - published_.refreshes_by_label[Index(thought)]));
    }
    published_ = now;
  }

  StoreMetrics& metrics_;
  Log& log_;
  std::atomic<HealthServer*> health_{nullptr};
  std::atomic<uint64_t> sequences_{0};
  std::atomic<uint64_t> sessions_{0};
  StoreCounters published_;
};

}  // namespace

std::unique_ptr<StoreObserver> NewStoreObserver(StoreMetrics* metrics, Log* log) {
  return std::make_unique<MetricsObserver>(metrics, log);
}

}  // namespace palimpsest
