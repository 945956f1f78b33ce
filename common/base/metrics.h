// SPDX-License-Identifier: Apache-2.0
// Every metric of both processes, in one place; the comment of each is its help text as well. All
// label sets exist from the start, at 0, so that a rate never begins with a hole and an alert never
// waits for a first event. Updating is safe from any thread.
//
//   auto registry = std::make_shared<prometheus::Registry>();
//   const std::unique_ptr<StoreMetrics> metrics = NewStoreMetrics(registry.get());
//   metrics->stats_batches_total[StatsResult::kDuplicate].Increment();
//   metrics->orders_total[{OrderKind::kEvict, OrderResult::kApplied}].Increment();
//
// Names: prefix palimpsest_, base units, _total on counters. No tenant, sequence or page id is ever
// a label. The registry owns the metrics and must outlive the struct.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/base/format.h"
#include "common/base/thought.h"

namespace palimpsest {

// Label values. Each enum ends in kCount; the texts are in metrics.cc, in the same order.
enum class AdmissionRejection : uint8_t { kPool, kDraining, kLimit, kInvalid, kCount };
enum class StatsResult : uint8_t { kOk, kDuplicate, kStale, kInvalid, kDropped, kCount };
enum class OrderKind : uint8_t { kQuantize, kEvict, kCount };
enum class OrderResult : uint8_t { kApplied, kDuplicate, kStaleEpoch, kFailed, kCount };
enum class KernelKind : uint8_t {
  kAppend,
  kAttend,
  kSeal,
  kAnneal,
  kSparsity,
  kMatmul,
  kDevice,
  kCount
};
enum class SavedBy : uint8_t { kQuantize, kEvict, kCount };
enum class DecodePhase : uint8_t { kPrefill, kDecode, kCount };
enum class PeerRole : uint8_t { kStore, kWorker, kCount };
enum class RpcMethod : uint8_t {
  kOpen,
  kStatus,
  kRegister,
  kReport,
  kAcknowledge,
  kHeartbeat,
  kPush,
  kClose,
  kCount
};
enum class RpcCode : uint8_t {
  kOk,
  kInvalid,
  kNotFound,
  kStaleEpoch,
  kConflict,
  kRefused,  // every other typed refusal
  kCount
};
enum class ConnectionRejection : uint8_t { kFraming, kLimit, kVersion, kRole, kCount };
// A sequence as the shard sees it, and as the worker does.
enum class StoreSequenceState : uint8_t { kTracked, kAwaitingSnapshot, kCount };
enum class WorkerSequenceState : uint8_t { kWaiting, kPrefill, kDecode, kCount };

// Series of one family with the value of their one label.
template <typename Metric>
using Series = std::vector<std::pair<std::string, Metric*>>;

// One metric per value of an enum.
template <typename Metric, typename Enum>
class ByLabel {
 public:
  explicit ByLabel(Series<Metric> series) : series_(std::move(series)) {}
  Metric& operator[](Enum value) const { return *series_[static_cast<size_t>(value)].second; }

  // By the label's text, for callers that do not know the enum; null when there is no such value.
  Metric* Find(absl::string_view text) const {
    for (const auto& [label, metric] : series_) {
      if (label == text) return metric;
    }
    return nullptr;
  }

 private:
  Series<Metric> series_;
};

// One metric per pair of values: metric[{first, second}].
template <typename Metric, typename First, typename Second>
class ByTwoLabels {
 public:
  explicit ByTwoLabels(std::vector<Metric*> metrics) : metrics_(std::move(metrics)) {}
  Metric& operator[](std::pair<First, Second> labels) const {
    const auto first = static_cast<size_t>(labels.first);
    return *metrics_[first * static_cast<size_t>(Second::kCount) +
                     static_cast<size_t>(labels.second)];
  }

 private:
  std::vector<Metric*> metrics_;
};

// One metric per page format, K and V apart: label "nvfp4" or "nvfp4/ternary".
template <typename Metric>
class ByFormat {
 public:
  explicit ByFormat(Series<Metric> series) : series_(std::move(series)) {}
  Metric& operator[](PageFormat format) const {
    const auto k = static_cast<size_t>(format.k);
    return *series_[k * kFormatCount + static_cast<size_t>(format.v)].second;
  }

 private:
  Series<Metric> series_;
};

// Whether each peer is heard. Peers come and go, so these are the only series made late; past
// `kPeersMax` names they share the label "other". Not thread-safe: the connection's owner calls it.
class PeerGauges {
 public:
  static constexpr size_t kPeersMax = 64;

  explicit PeerGauges(prometheus::Family<prometheus::Gauge>* family) : family_(family) {}
  void Set(absl::string_view peer, bool up);
  // Forgets a peer that left in order; one that was lost stays, at 0.
  void Remove(absl::string_view peer);

 private:
  prometheus::Family<prometheus::Gauge>* family_;
  std::map<std::string, prometheus::Gauge*> peers_;
};

// What every process has.
struct ProcessMetrics {
  // Always 1; the labels say what this process was built from.
  prometheus::Gauge& build_info;
  // Calls by method and how they ended, on the side that answers.
  ByTwoLabels<prometheus::Counter, RpcMethod, RpcCode> rpc_requests_total;
  // Open connections of the control plane.
  prometheus::Gauge& rpc_connections;
  // Connections turned away, by reason.
  ByLabel<prometheus::Counter, ConnectionRejection> connection_rejections_total;
  // Whether a peer is heard (1) or not (0).
  PeerGauges peer_up;
  // From a heartbeat to its answer.
  prometheus::Histogram& heartbeat_rtt_seconds;
  // Peers given up after three silent heartbeats, by the role of the peer.
  ByLabel<prometheus::Counter, PeerRole> lease_expirations_total;
  // How late the event loop comes round; liveness is judged by it.
  prometheus::Histogram& event_loop_lag_seconds;
  // Sequences registered again from a snapshot, after a lost store or lost reports.
  prometheus::Counter& reregistrations_total;
  // Sequences and requests refused, by reason.
  ByLabel<prometheus::Counter, AdmissionRejection> admission_rejections_total;
  // Batches of attention statistics by what became of them.
  ByLabel<prometheus::Counter, StatsResult> stats_batches_total;
  // Orders by kind and how they ended.
  ByTwoLabels<prometheus::Counter, OrderKind, OrderResult> orders_total;
  // From the issue of an order to its acknowledgement: the lag of a plan.
  ByLabel<prometheus::Histogram, OrderKind> order_duration_seconds;
  // Orders issued and not yet acknowledged.
  prometheus::Gauge& orders_inflight;
};

struct StoreMetrics {
  ProcessMetrics process;
  // Sequences the shard knows, by state.
  ByLabel<prometheus::Gauge, StoreSequenceState> sequences;
  // From a worker's sending of statistics to their end in the shard.
  prometheus::Histogram& stats_lag_seconds;
  // Reports found missing; each makes the shard ask for a snapshot.
  prometheus::Counter& stats_gaps_total;
  // Windows classified, by thought.
  ByLabel<prometheus::Counter, Thought> thoughts_classified_total;
  // One classification with its plan.
  prometheus::Histogram& classification_duration_seconds;
};

struct WorkerMetrics {
  ProcessMetrics process;
  // Sequences the worker holds, by state.
  ByLabel<prometheus::Gauge, WorkerSequenceState> sequences;
  // Frames of the pool that hold no page; with format="any", since frames are shared.
  prometheus::Gauge& pages_free;
  // Pages in use, by format.
  ByFormat<prometheus::Gauge> pages_resident;
  // The size of a page, by format.
  ByFormat<prometheus::Gauge> page_bytes;
  // The size of the page pool, as allocated at start.
  prometheus::Gauge& pool_capacity_bytes;
  // Bytes of the pool in use: data, scales, masks, holes and open groups.
  prometheus::Gauge& pool_used_bytes;
  // Bytes that live sequences would take more without it.
  ByLabel<prometheus::Gauge, SavedBy> bytes_saved;
  // Tokens that live sequences can still attend to.
  prometheus::Gauge& live_tokens;
  // Tokens processed, by phase.
  ByLabel<prometheus::Counter, DecodePhase> decode_tokens_total;
  // One step of the batch.
  prometheus::Histogram& decode_step_duration_seconds;
  // Time in a kernel, by kernel; on a device, where the host cannot tell them apart, kDevice alone.
  ByLabel<prometheus::Histogram, KernelKind> kernel_duration_seconds;
  // 1 while the worker plans by itself because no store answers.
  prometheus::Gauge& store_fallback_active;
};

std::unique_ptr<StoreMetrics> NewStoreMetrics(prometheus::Registry* registry);
std::unique_ptr<WorkerMetrics> NewWorkerMetrics(prometheus::Registry* registry);

// The registry in the text format that Prometheus scrapes.
std::string MetricsText(const prometheus::Registry& registry);

}  // namespace palimpsest
