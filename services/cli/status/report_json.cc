// SPDX-License-Identifier: Apache-2.0
// The same for machines. Units are in the keys; what is not known is null.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/text.h"
#include "nlohmann/json.hpp"
#include "services/cli/render.h"
#include "services/cli/status/report.h"

namespace palimpsest::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kStatusFormatVersion = 1;

Json Number(double value) {
  if (!std::isfinite(value)) return nullptr;
  return std::round(value * 1e6) / 1e6;
}

Json PercentJson(uint64_t part, uint64_t whole) {
  return Number(PercentOf(static_cast<double>(part), static_cast<double>(whole)));
}

Json LagJson(const Quantiles& lag) {
  return Json{{"count", lag.count},
              {"p50_ns", lag.p50_ns},
              {"p90_ns", lag.p90_ns},
              {"p99_ns", lag.p99_ns},
              {"max_ns", lag.max_ns}};
}

Json SequenceJson(const SequenceStatus& s) {
  return Json{{"sequence", s.sequence},
              {"tenant", s.tenant},
              {"policy", s.policy},
              {"worker", s.worker_name},
              {"partition", s.partition},
              {"segments", s.segments},
              {"sealed_tokens", s.sealed_tokens},
              {"live_tokens", s.live_tokens},
              {"budget_tokens", s.budget_tokens},
              {"last_report", s.last_report},
              {"last_plan", s.last_plan},
              {"plans_unacknowledged", s.plans_unacknowledged},
              {"needs_snapshot", s.needs_snapshot},
              {"label", std::string(Letter(s.label))}};
}

Json ChainJson(const ChainStatus& chain) {
  return Json{{"request", chain.request},
              {"tenant", chain.tenant},
              {"policy", chain.policy},
              {"budget_tokens", chain.budget_tokens},
              {"tokens", chain.tokens},
              {"prompt_tokens", chain.prompt_tokens},
              {"live_tokens", chain.live_tokens},
              {"footprint_bytes", chain.footprint_bytes},
              {"full_bytes", chain.full_bytes},
              {"timeline", chain.timeline},
              {"label", chain.label}};
}

Json StoreJson(const StoreAnswer& answer, bool sequences) {
  Json json{{"endpoint", FormatEndpoint(answer.endpoint)}, {"reachable", answer.status.ok()}};
  if (!answer.status.ok()) {
    json["error"] = std::string(answer.status.status().message());
    return json;
  }
  const StoreStatus& s = *answer.status;
  json.update(Json{{"version", s.version},
                   {"epoch", s.epoch},
                   {"uptime_seconds", Number(static_cast<double>(s.uptime_ms) / 1e3)},
                   {"draining", s.draining},
                   {"partitions_owned", s.partitions_owned},
                   {"sequence_count", s.sequence_count},
                   {"sequence_max", s.sequence_max},
                   {"reports_accepted", s.counters.reports_accepted},
                   {"reports_duplicate", s.counters.reports_duplicate},
                   {"reports_stale", s.counters.reports_stale},
                   {"reports_invalid", s.counters.reports_invalid},
                   {"report_gaps", s.counters.report_gaps},
                   {"plans_issued", s.counters.plans_issued},
                   {"plans_acknowledged", s.counters.plans_acknowledged},
                   {"plans_coalesced", s.counters.plans_coalesced},
                   {"sessions_expired", s.counters.sessions_expired},
                   {"plan_lag", LagJson(s.plan_lag)},
                   {"ack_lag", LagJson(s.ack_lag)},
                   {"sessions", Json::array()}});
  for (const SessionStatus& session : s.sessions) {
    json["sessions"].push_back({{"worker", session.worker_name},
                                {"sequences", session.sequences},
                                {"silent_ms", session.silent_ms},
                                {"heartbeat_ms", session.heartbeat_ms},
                                {"plans_queued", session.plans_queued},
                                {"offences", session.offences}});
  }
  if (!sequences) return json;
  json["sequences"] = Json::array();
  for (const SequenceStatus& sequence : s.sequences) {
    json["sequences"].push_back(SequenceJson(sequence));
  }
  return json;
}

Json PoolJson(const PoolStatus& pool) {
  Json json{{"capacity_bytes", pool.capacity_bytes},
            {"used_bytes", pool.used_bytes},
            {"page_bytes", pool.page_bytes},
            {"footprint_bytes", pool.footprint_bytes},
            {"full_bytes", pool.full_bytes},
            {"footprint_percent", PercentJson(pool.footprint_bytes, pool.full_bytes)},
            {"pages", Json::object()}};
  for (const Format format : kFormats) {
    json["pages"][std::string(Name(format))] = pool.pages_by_format[static_cast<size_t>(format)];
  }
  return json;
}

// Null where the worker did not tell.
Json PolicyJson(const std::optional<PolicySpec>& spec) {
  if (!spec.has_value()) return nullptr;
  return Json{{"name", spec->name},
              {"budget_tokens", spec->budget_tokens},
              {"window_tokens", WindowTokensOf(*spec)},
              {"formats", ToString(spec->formats)}};
}

Json WorkerJson(const WorkerAnswer& answer, bool sequences) {
  static constexpr const char* kLinks[] = {"none", "connecting", "connected"};
  Json json{{"endpoint", FormatEndpoint(answer.endpoint)}, {"reachable", answer.status.ok()}};
  if (!answer.status.ok()) {
    json["error"] = std::string(answer.status.status().message());
    return json;
  }
  const WorkerStatus& s = *answer.status;
  json.update(Json{{"name", s.name},
                   {"version", s.version},
                   {"uptime_seconds", Number(s.uptime_seconds)},
                   {"model",
                    {{"family", s.model.family},
                     {"path", s.model.path},
                     {"synthetic", s.model.synthetic},
                     {"layers", s.model.layers},
                     {"kv_heads", s.model.kv_heads},
                     {"head_dim", s.model.head_dim}}},
                   {"store_state", kLinks[static_cast<size_t>(s.store)]},
                   {"store_endpoint", s.store_endpoint},
                   {"lockstep", s.lockstep},
                   {"draining", s.draining},
                   {"sequences_running", s.running},
                   {"sequences_waiting", s.waiting},
                   {"tokens_decoded", s.tokens_decoded},
                   {"tokens_prefilled", s.tokens_prefilled},
                   {"tokens_per_second", Number(answer.tokens_per_second)},
                   {"pool", PoolJson(s.pool)},
                   {"reregistrations", s.reregistrations},
                   {"default_policy", PolicyJson(s.default_policy)},
                   {"keys_rotated", s.keys_rotated}});
  if (!sequences) return json;
  json["chains"] = Json::array();
  for (const ChainStatus& chain : s.chains) json["chains"].push_back(ChainJson(chain));
  return json;
}

}  // namespace

std::string StatusJson(const SystemReport& report, bool pretty) {
  const std::vector<std::string> complaints = Complaints(report);
  Json json{{"status_format", kStatusFormatVersion},
            {"healthy", complaints.empty()},
            {"complaints", complaints},
            {"remarks", Remarks(report)},
            {"stores", Json::array()},
            {"workers", Json::array()}};
  for (const StoreAnswer& store : report.stores) {
    json["stores"].push_back(StoreJson(store, report.sequences));
  }
  for (const WorkerAnswer& worker : report.workers) {
    json["workers"].push_back(WorkerJson(worker, report.sequences));
  }
  return absl::StrCat(json.dump(pretty ? 2 : -1, ' ', false, Json::error_handler_t::replace), "\n");
}

}  // namespace palimpsest::cli
