// SPDX-License-Identifier: Apache-2.0
#include "services/decode/worker_observers.h"

#include <algorithm>
#include <string>

namespace palimpsest {
namespace {

class EngineMetrics final : public EngineObserver {
 public:
  explicit EngineMetrics(WorkerMetrics* metrics) : metrics_(*metrics) {}

  void OnStep(double seconds, uint32_t prefill_tokens, uint32_t decode_tokens) override {
    metrics_.decode_step_duration_seconds.Observe(seconds);
    metrics_.decode_tokens_total[DecodePhase::kPrefill].Increment(prefill_tokens);
    metrics_.decode_tokens_total[DecodePhase::kDecode].Increment(decode_tokens);
  }

  void OnKernel(absl::string_view kernel, double seconds) override {
    constexpr std::pair<absl::string_view, KernelKind> kKinds[] = {
        {"append", KernelKind::kAppend},     {"attend", KernelKind::kAttend},
        {"sparsity", KernelKind::kSparsity}, {"seal", KernelKind::kSeal},
        {"anneal", KernelKind::kAnneal},     {"matmul", KernelKind::kMatmul},
        {"device", KernelKind::kDevice}};
    for (const auto& [name, kind] : kKinds) {
      if (name == kernel) metrics_.kernel_duration_seconds[kind].Observe(seconds);
    }
  }

  void OnRefused(const absl::Status& status) override {
    const AdmissionRejection reason = absl::IsInvalidArgument(status) ? AdmissionRejection::kInvalid
                                      : absl::IsUnavailable(status) ? AdmissionRejection::kDraining
                                      : absl::IsResourceExhausted(status)
                                          ? AdmissionRejection::kPool
                                          : AdmissionRejection::kLimit;
    metrics_.process.admission_rejections_total[reason].Increment();
  }

  void OnLabel(Thought) override {}

  // A label is an order to quantise what comes in its format; an anneal is an order to evict.
  void OnPlan(const Plan& plan, bool local, double lag_seconds) override {
    const auto count = [&](OrderKind kind, size_t orders) {
      if (orders == 0) return;
      metrics_.process.orders_total[{kind, OrderResult::kApplied}].Increment(
          static_cast<double>(orders));
      if (!local) metrics_.process.order_duration_seconds[kind].Observe(lag_seconds);
    };
    count(OrderKind::kQuantize, plan.next_label.has_value() ? 1 : 0);
    count(OrderKind::kEvict, plan.anneals.size());
  }

  void OnEvicted(uint32_t) override {}

  void OnSnapshot(const EngineSnapshot& snapshot) override {
    metrics_.pool_capacity_bytes.Set(static_cast<double>(snapshot.pool.capacity_bytes));
    metrics_.pool_used_bytes.Set(static_cast<double>(snapshot.pool.used_bytes));
    metrics_.pages_free.Set(
        static_cast<double>((snapshot.pool.capacity_bytes - snapshot.pool.used_bytes) /
                            std::max<uint64_t>(1, snapshot.pool.frame_bytes)));
    for (const PoolUsage::OfFormat& usage : snapshot.pool.formats) {
      metrics_.pages_resident[usage.format].Set(static_cast<double>(usage.pages));
      metrics_.page_bytes[usage.format].Set(static_cast<double>(usage.page_bytes));
    }
    uint32_t prefill = 0;
    double live_tokens = 0;
    double evicted_bytes = 0;
    for (const ChainSnapshot& chain : snapshot.chains) {
      prefill += chain.tokens < chain.prompt_tokens ? 1 : 0;
      live_tokens += chain.live_tokens;
      const double token_bytes =
          static_cast<double>(chain.full_bytes) / std::max<uint32_t>(1, chain.tokens);
      evicted_bytes += token_bytes * (chain.tokens - chain.live_tokens);
    }
    const double saved =
        static_cast<double>(snapshot.full_bytes) - static_cast<double>(snapshot.footprint_bytes);
    metrics_.bytes_saved[SavedBy::kEvict].Set(evicted_bytes);
    metrics_.bytes_saved[SavedBy::kQuantize].Set(saved - evicted_bytes);
    metrics_.live_tokens.Set(live_tokens);
    metrics_.sequences[WorkerSequenceState::kPrefill].Set(prefill);
    metrics_.sequences[WorkerSequenceState::kDecode].Set(
        static_cast<double>(snapshot.chains.size()) - prefill);
    metrics_.sequences[WorkerSequenceState::kWaiting].Set(snapshot.waiting);
    metrics_.store_fallback_active.Set(snapshot.store == StoreState::kConnected ? 0 : 1);
  }

 private:
  WorkerMetrics& metrics_;
};

class StoreClientMetrics final : public StoreClientObserver {
 public:
  StoreClientMetrics(WorkerMetrics* metrics, Log* log) : metrics_(*metrics), log_(*log) {}

  void OnState(StoreState state, std::string_view why) override {
    const bool up = state == StoreState::kConnected;
    // Every attempt to connect ends up here; only what is new is worth a line.
    if (up) {
      log_.Info("store connected");
    } else if (reason_ != why) {
      log_.Warning("store away, planning locally",
                   {{"reason", absl::string_view(why.data(), why.size())}});
    }
    reason_ = up ? "" : std::string(why);
    if (up && was_up_) metrics_.process.reregistrations_total.Increment();
    was_up_ = was_up_ || up;
    metrics_.process.peer_up.Set("store", up);
  }

  void OnDrop(StoreClientDrop drop, uint64_t count) override {
    const StatsResult result = drop == StoreClientDrop::kPlanDuplicate ? StatsResult::kDuplicate
                               : drop == StoreClientDrop::kPlanStale   ? StatsResult::kStale
                               : drop == StoreClientDrop::kPlanInvalid ? StatsResult::kInvalid
                                                                       : StatsResult::kDropped;
    metrics_.process.stats_batches_total[result].Increment(static_cast<double>(count));
  }

  void OnPlanLag(std::chrono::nanoseconds) override {}  // the engine knows when it is applied

  void OnHeartbeat(std::chrono::nanoseconds round_trip) override {
    metrics_.process.heartbeat_rtt_seconds.Observe(
        std::chrono::duration<double>(round_trip).count());
  }

 private:
  WorkerMetrics& metrics_;
  Log& log_;
  bool was_up_ = false;
  std::string reason_;
};

}  // namespace

std::unique_ptr<EngineObserver> NewEngineMetrics(WorkerMetrics* metrics) {
  return std::make_unique<EngineMetrics>(metrics);
}

std::unique_ptr<StoreClientObserver> NewStoreClientMetrics(WorkerMetrics* metrics, Log* log) {
  return std::make_unique<StoreClientMetrics>(metrics, log);
}

}  // namespace palimpsest
