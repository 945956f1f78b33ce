// SPDX-License-Identifier: Apache-2.0
#include "common/base/metrics.h"

#include <prometheus/family.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <locale>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/base/build_info.h"
#include "common/base/text.h"

namespace palimpsest {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

// Kernels and classification: a microsecond to a second.
const Histogram::BucketBoundaries kShort = {1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4,
                                            1e-3, 3e-3, 1e-2, 3e-2, 0.1,  1};
// Steps, round trips, plan lag: 100 us to half a minute.
const Histogram::BucketBoundaries kLong = {1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2,
                                           0.1,  0.3,  1,    3,    10,   30};

// Label values of an enum, in its order; the array's size makes a forgotten one an error.
template <typename Enum>
using Values = std::array<const char*, static_cast<size_t>(Enum::kCount)>;

constexpr Values<AdmissionRejection> kAdmissionRejections = {"pool", "draining", "limit",
                                                             "invalid"};
constexpr Values<StatsResult> kStatsResults = {"ok", "duplicate", "stale", "invalid", "dropped"};
constexpr Values<OrderKind> kOrderKinds = {"quantize", "evict"};
constexpr Values<OrderResult> kOrderResults = {"applied", "duplicate", "stale_epoch", "failed"};
constexpr Values<KernelKind> kKernels = {"append",   "attend", "seal",  "anneal",
                                         "sparsity", "matmul", "device"};
constexpr Values<SavedBy> kSavedBy = {"quantize", "evict"};
constexpr Values<DecodePhase> kPhases = {"prefill", "decode"};
constexpr Values<PeerRole> kRoles = {"store", "worker"};
constexpr Values<RpcMethod> kRpcMethods = {"open",        "status",    "register", "report",
                                           "acknowledge", "heartbeat", "push",     "close"};
constexpr Values<RpcCode> kRpcCodes = {"ok",          "invalid",  "not_found",
                                       "stale_epoch", "conflict", "refused"};
constexpr Values<ConnectionRejection> kConnectionRejections = {"framing", "limit", "version",
                                                               "role"};
constexpr Values<StoreSequenceState> kStoreStates = {"tracked", "awaiting_snapshot"};
constexpr Values<WorkerSequenceState> kWorkerStates = {"waiting", "prefill", "decode"};
constexpr std::array<const char*, kThoughtCount> kThoughtNames = {"transition", "execution",
                                                                  "reasoning"};

std::vector<std::string> PageFormatNames() {
  std::vector<std::string> names;
  for (const Format k : kFormats) {
    for (const Format v : kFormats) {
      names.push_back(k == v ? std::string(Name(k)) : absl::StrCat(Name(k), "/", Name(v)));
    }
  }
  return names;
}

// Makes families and their series in one registry.
class Maker {
 public:
  explicit Maker(prometheus::Registry* registry) : registry_(registry) {}

  template <typename Metric>
  Family<Metric>& MakeFamily(const char* name, const char* help) {
    prometheus::detail::Builder<Metric> builder;
    return builder.Name(absl::StrCat("palimpsest_", name)).Help(help).Register(*registry_);
  }

  template <typename Metric, typename... Buckets>
  Metric& One(const char* name, const char* help, const Buckets&... buckets) {
    return MakeFamily<Metric>(name, help).Add({}, buckets...);
  }

  template <typename Metric, typename Texts, typename... Buckets>
  Series<Metric> Each(const char* name, const char* help, const char* label, const Texts& texts,
                      const Buckets&... buckets) {
    Family<Metric>& family = MakeFamily<Metric>(name, help);
    Series<Metric> series;
    for (const auto& text : texts) {
      series.emplace_back(text, &family.Add({{label, text}}, buckets...));
    }
    return series;
  }

  template <typename FirstTexts, typename SecondTexts>
  std::vector<Counter*> EachPair(const char* name, const char* help,
                                 std::pair<const char*, const char*> labels,
                                 const FirstTexts& firsts, const SecondTexts& seconds) {
    Family<Counter>& family = MakeFamily<Counter>(name, help);
    std::vector<Counter*> metrics;
    for (const char* first : firsts) {
      for (const char* second : seconds) {
        metrics.push_back(&family.Add({{labels.first, first}, {labels.second, second}}));
      }
    }
    return metrics;
  }

 private:
  prometheus::Registry* registry_;
};

Gauge& MakeBuildInfo(Maker& make) {
  Gauge& info =
      make.MakeFamily<Gauge>("build_info",
                             "Always 1; the labels say what this process was built from.")
          .Add({{"version", std::string(BuildVersion())}, {"commit", std::string(BuildCommit())}});
  info.Set(1);
  return info;
}

ProcessMetrics MakeProcessMetrics(Maker& make) {
  return {
      .build_info = MakeBuildInfo(make),
      .rpc_requests_total = ByTwoLabels<Counter, RpcMethod, RpcCode>(make.EachPair(
          "rpc_requests_total", "Calls by method and how they ended, on the side that answers.",
          {"method", "code"}, kRpcMethods, kRpcCodes)),
      .rpc_connections =
          make.One<Gauge>("rpc_connections", "Open connections of the control plane."),
      .connection_rejections_total = ByLabel<Counter, ConnectionRejection>(
          make.Each<Counter>("connection_rejections_total", "Connections turned away, by reason.",
                             "reason", kConnectionRejections)),
      .peer_up =
          PeerGauges(&make.MakeFamily<Gauge>("peer_up", "Whether a peer is heard (1) or not (0).")),
      .heartbeat_rtt_seconds =
          make.One<Histogram>("heartbeat_rtt_seconds", "From a heartbeat to its answer.", kLong),
      .lease_expirations_total = ByLabel<Counter, PeerRole>(make.Each<Counter>(
          "lease_expirations_total",
          "Peers given up after three silent heartbeats, by the role of the peer.", "role",
          kRoles)),
      .event_loop_lag_seconds = make.One<Histogram>(
          "event_loop_lag_seconds",
          "How late the event loop comes round; liveness is judged by it.", kLong),
      .reregistrations_total = make.One<Counter>(
          "reregistrations_total",
          "Sequences registered again from a snapshot, after a lost store or lost reports."),
      .admission_rejections_total = ByLabel<Counter, AdmissionRejection>(make.Each<Counter>(
          "admission_rejections_total", "Sequences and requests refused, by reason.", "reason",
          kAdmissionRejections)),
      .stats_batches_total = ByLabel<Counter, StatsResult>(make.Each<Counter>(
          "stats_batches_total", "Batches of attention statistics by what became of them.",
          "result", kStatsResults)),
      .orders_total = ByTwoLabels<Counter, OrderKind, OrderResult>(
          make.EachPair("orders_total", "Orders by kind and how they ended.", {"kind", "result"},
                        kOrderKinds, kOrderResults)),
      .order_duration_seconds = ByLabel<Histogram, OrderKind>(make.Each<Histogram>(
          "order_duration_seconds",
          "From the issue of an order to its acknowledgement: the lag of a plan.", "kind",
          kOrderKinds, kLong)),
      .orders_inflight =
          make.One<Gauge>("orders_inflight", "Orders issued and not yet acknowledged."),
  };
}

}  // namespace

void PeerGauges::Set(absl::string_view peer, bool up) {
  // A peer chooses its own name; the serializer escapes little.
  std::string name = Escaped(peer, 128);
  auto found = peers_.find(name);
  if (found == peers_.end()) {
    if (peers_.size() >= kPeersMax) name = "other";
    found = peers_.emplace(name, &family_->Add({{"peer", name}})).first;
  }
  found->second->Set(up ? 1 : 0);
}

void PeerGauges::Remove(absl::string_view peer) {
  const auto found = peers_.find(Escaped(peer, 128));
  if (found == peers_.end()) return;
  family_->Remove(found->second);
  peers_.erase(found);
}

std::unique_ptr<StoreMetrics> NewStoreMetrics(prometheus::Registry* registry) {
  Maker make(registry);
  return std::make_unique<StoreMetrics>(StoreMetrics{
      .process = MakeProcessMetrics(make),
      .sequences = ByLabel<Gauge, StoreSequenceState>(make.Each<Gauge>(
          "sequences", "Sequences the shard knows, by state.", "state", kStoreStates)),
      .stats_lag_seconds = make.One<Histogram>(
          "stats_lag_seconds", "From a worker's sending of statistics to their end in the shard.",
          kLong),
      .stats_gaps_total = make.One<Counter>(
          "stats_gaps_total", "Reports found missing; each makes the shard ask for a snapshot."),
      .thoughts_classified_total = ByLabel<Counter, Thought>(make.Each<Counter>(
          "thoughts_classified_total", "Windows classified, by thought.", "class", kThoughtNames)),
      .classification_duration_seconds = make.One<Histogram>(
          "classification_duration_seconds", "One classification with its plan.", kShort),
  });
}

std::unique_ptr<WorkerMetrics> NewWorkerMetrics(prometheus::Registry* registry) {
  Maker make(registry);
  const std::vector<std::string> formats = PageFormatNames();
  // One family, two shapes: free frames have no format yet.
  Family<Gauge>& pages = make.MakeFamily<Gauge>(
      "pages", "Pages of the pool by state and format; free frames have format=\"any\".");
  Series<Gauge> resident;
  for (const std::string& format : formats) {
    resident.emplace_back(format, &pages.Add({{"state", "resident"}, {"format", format}}));
  }
  return std::make_unique<WorkerMetrics>(WorkerMetrics{
      .process = MakeProcessMetrics(make),
      .sequences = ByLabel<Gauge, WorkerSequenceState>(make.Each<Gauge>(
          "sequences", "Sequences the worker holds, by state.", "state", kWorkerStates)),
      .pages_free = pages.Add({{"state", "free"}, {"format", "any"}}),
      .pages_resident = ByFormat<Gauge>(resident),
      .page_bytes = ByFormat<Gauge>(
          make.Each<Gauge>("page_bytes", "The size of a page, by format.", "format", formats)),
      .pool_capacity_bytes = make.One<Gauge>("pool_capacity_bytes",
                                             "The size of the page pool, as allocated at start."),
      .pool_used_bytes =
          make.One<Gauge>("pool_used_bytes",
                          "Bytes of the pool in use: data, scales, masks, holes and open groups."),
      .bytes_saved = ByLabel<Gauge, SavedBy>(make.Each<Gauge>(
          "bytes_saved", "Bytes that live sequences would take more without it.", "by", kSavedBy)),
      .live_tokens =
          make.One<Gauge>("live_tokens", "Tokens that live sequences can still attend to."),
      .decode_tokens_total = ByLabel<Counter, DecodePhase>(make.Each<Counter>(
          "decode_tokens_total", "Tokens processed, by phase.", "phase", kPhases)),
      .decode_step_duration_seconds =
          make.One<Histogram>("decode_step_duration_seconds", "One step of the batch.", kLong),
      .kernel_duration_seconds = ByLabel<Histogram, KernelKind>(make.Each<Histogram>(
          "kernel_duration_seconds",
          "Time in a kernel, by kernel, in a step on the CPU. A GPU works behind the host's back: "
          "there the others stay empty, and `device` is what a step waited for, the model and the "
          "page work ordered since the step before.",
          "kernel", kKernels, kShort)),
      .store_fallback_active = make.One<Gauge>(
          "store_fallback_active", "1 while the worker plans by itself because no store answers."),
  });
}

std::string MetricsText(const prometheus::Registry& registry) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  prometheus::TextSerializer().Serialize(out, registry.Collect());
  return out.str();
}

}  // namespace palimpsest
