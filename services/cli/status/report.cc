// SPDX-License-Identifier: Apache-2.0
#include "services/cli/status/report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/build_info.h"
#include "common/base/text.h"
#include "services/cli/render.h"

namespace palimpsest::cli {
namespace {

constexpr uint32_t kPartitions = 1024;
constexpr size_t kSequenceRowsMax = 50;
constexpr int kBarColumns = 20;

std::string Where(absl::string_view noun, const Endpoint& endpoint) {
  return absl::StrCat(noun, " ", FormatEndpoint(endpoint));
}

void Complain(const StoreAnswer& store, std::vector<std::string>* out) {
  if (!store.status.ok()) {
    out->push_back(std::string(store.status.status().message()));
    return;
  }
  const std::string where = Where("store", store.endpoint);
  if (store.status->draining) out->push_back(absl::StrCat(where, ": is draining"));
  for (const SessionStatus& session : store.status->sessions) {
    if (session.heartbeat_ms == 0 || session.silent_ms <= 2ull * session.heartbeat_ms) continue;
    out->push_back(absl::StrCat(where, ": worker ", Escaped(session.worker_name),
                                " has been silent for ",
                                HumanSeconds(static_cast<double>(session.silent_ms) / 1e3)));
  }
}

void Complain(const WorkerAnswer& worker, std::vector<std::string>* out) {
  if (!worker.status.ok()) {
    out->push_back(std::string(worker.status.status().message()));
    return;
  }
  const std::string where = Where("worker", worker.endpoint);
  if (worker.status->draining) out->push_back(absl::StrCat(where, ": is draining"));
  if (worker.status->store == StoreLink::kConnecting) {
    out->push_back(absl::StrCat(where, ": has no connection to its store ",
                                worker.status->store_endpoint, " and plans by itself"));
  }
}

std::string Lag(const Quantiles& lag) {
  if (lag.count == 0) return "no plan yet";
  return absl::StrCat("p50 ", HumanSeconds(static_cast<double>(lag.p50_ns) / 1e9), ", p99 ",
                      HumanSeconds(static_cast<double>(lag.p99_ns) / 1e9));
}

absl::string_view LinkName(StoreLink link) {
  switch (link) {
    case StoreLink::kNone:
      return "none";
    case StoreLink::kConnecting:
      return "connecting";
    case StoreLink::kConnected:
      return "connected";
  }
  return "?";
}

void AppendText(absl::string_view text, std::vector<StyledLine>* lines) {
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    lines->push_back({{Style::kPlain, std::string(line)}});
  }
  if (!lines->empty() && lines->back().front().text.empty()) lines->pop_back();
}

void AppendVerdict(const SystemReport& report, int columns, std::vector<StyledLine>* lines) {
  const std::vector<std::string> complaints = Complaints(report);
  if (complaints.empty()) {
    lines->push_back({{Style::kGood, "healthy"},
                      {Style::kPlain, absl::StrCat(": ", report.stores.size(), " shard",
                                                   report.stores.size() == 1 ? "" : "s", ", ",
                                                   report.workers.size(), " worker",
                                                   report.workers.size() == 1 ? "" : "s")}});
  } else {
    lines->push_back({{Style::kBad, "unhealthy"},
                      {Style::kPlain, absl::StrCat(" because of ", complaints.size(), " thing",
                                                   complaints.size() == 1 ? "" : "s", ":")}});
    for (const std::string& complaint : complaints) {
      AppendText(Wrapped(absl::StrCat("- ", complaint), columns, "  "), lines);
    }
  }
  for (const std::string& remark : Remarks(report)) {
    AppendText(Wrapped(absl::StrCat("note: ", remark), columns, ""), lines);
  }
}

void AppendStores(const SystemReport& report, int columns, std::vector<StyledLine>* lines) {
  if (report.stores.empty()) return;
  Table table{.columns = {{"SHARD", false},
                          {"epoch"},
                          {"partitions"},
                          {"sessions"},
                          {"sequences"},
                          {"reports"},
                          {"plans"},
                          {"plan lag", false},
                          {"up"}},
              .rows = {}};
  for (const StoreAnswer& store : report.stores) {
    if (!store.status.ok()) {
      table.rows.push_back(
          {FormatEndpoint(store.endpoint), "?", "?", "?", "?", "?", "?", "?", "?"});
      continue;
    }
    const StoreStatus& status = *store.status;
    table.rows.push_back({FormatEndpoint(store.endpoint), absl::StrCat(status.epoch),
                          absl::StrCat(status.partitions_owned),
                          absl::StrCat(status.sessions.size()), HumanCount(status.sequence_count),
                          HumanCount(status.counters.reports_accepted),
                          HumanCount(status.counters.plans_issued), Lag(status.plan_lag),
                          HumanSeconds(static_cast<double>(status.uptime_ms) / 1e3)});
  }
  lines->push_back({});
  AppendText(ToText(table, columns), lines);
}

void AppendWorkers(const SystemReport& report, int columns, std::vector<StyledLine>* lines) {
  if (report.workers.empty()) return;
  Table table{.columns = {{"WORKER", false},
                          {"name", false},
                          {"model", false},
                          {"store", false},
                          {"running"},
                          {"waiting"},
                          {"tokens/s"},
                          {"cache of full"},
                          {"up"}},
              .rows = {}};
  for (const WorkerAnswer& worker : report.workers) {
    if (!worker.status.ok()) {
      table.rows.push_back(
          {FormatEndpoint(worker.endpoint), "?", "?", "?", "?", "?", "?", "?", "?"});
      continue;
    }
    const WorkerStatus& status = *worker.status;
    table.rows.push_back(
        {FormatEndpoint(worker.endpoint), status.name,
         absl::StrCat(status.model.family, " ", status.model.layers, "x", status.model.kv_heads,
                      "x", status.model.head_dim, status.model.synthetic ? " RANDOM" : ""),
         std::string(LinkName(status.store)), absl::StrCat(status.running),
         absl::StrCat(status.waiting), absl::StrFormat("%.0f", worker.tokens_per_second),
         HumanPercent(PercentOf(static_cast<double>(status.pool.footprint_bytes),
                                static_cast<double>(status.pool.full_bytes))),
         HumanSeconds(status.uptime_seconds)});
  }
  lines->push_back({});
  AppendText(ToText(table, columns), lines);
}

void AppendPools(const SystemReport& report, const Terminal& terminal,
                 std::vector<StyledLine>* lines) {
  for (const WorkerAnswer& worker : report.workers) {
    if (!worker.status.ok() || worker.status->pool.capacity_bytes == 0) continue;
    const PoolStatus& pool = worker.status->pool;
    const double share =
        static_cast<double>(pool.used_bytes) / static_cast<double>(pool.capacity_bytes);
    StyledLine line = {{Style::kDim, absl::StrCat("pool of ", worker.status->name, "  ")}};
    const StyledLine bar =
        Bar(share, kBarColumns, terminal.utf8, share > 0.95 ? Style::kWarning : Style::kExecution);
    line.insert(line.end(), bar.begin(), bar.end());
    line.push_back({Style::kPlain,
                    absl::StrCat("  ", HumanPercent(100 * share), "  ", HumanBytes(pool.used_bytes),
                                 " of ", HumanBytes(pool.capacity_bytes))});
    lines->push_back(line);
  }
}

void AppendDefaults(const SystemReport& report, std::vector<StyledLine>* lines) {
  for (const WorkerAnswer& worker : report.workers) {
    if (!worker.status.ok() || !worker.status->default_policy.has_value()) continue;
    lines->push_back({{Style::kDim, absl::StrCat("default policy of ", worker.status->name, "  ")},
                      {Style::kPlain, Described(*worker.status->default_policy)},
                      {Style::kDim, worker.status->keys_rotated ? "  keys rotated" : ""}});
  }
}

void AppendMore(size_t shown, uint64_t total, std::vector<StyledLine>* lines) {
  if (total <= shown) return;
  lines->push_back({{Style::kDim, absl::StrCat("and ", HumanCount(total - shown),
                                               " more; --format json lists up to 1,000")}});
}

void AppendChains(const SystemReport& report, const Terminal& terminal,
                  std::vector<StyledLine>* lines) {
  for (const WorkerAnswer& worker : report.workers) {
    if (!worker.status.ok() || worker.status->chains.empty()) continue;
    lines->push_back({});
    lines->push_back({{Style::kBold, absl::StrCat("chains of ", worker.status->name)}});
    size_t shown = 0;
    for (const ChainStatus& chain : worker.status->chains) {
      if (shown == kSequenceRowsMax) break;
      ++shown;
      const std::string text =
          absl::StrFormat("%5d  %-10s %-10s k=%-6s %7s tok %7s live %8s  ", chain.request,
                          Clipped(chain.tenant, 10, false), Clipped(chain.policy, 10, false),
                          chain.budget_tokens == 0 || chain.budget_tokens >= 1u << 24
                              ? "-"
                              : absl::StrCat(chain.budget_tokens),
                          HumanCount(chain.tokens), HumanCount(chain.live_tokens),
                          HumanPercent(PercentOf(static_cast<double>(chain.footprint_bytes),
                                                 static_cast<double>(chain.full_bytes))));
      StyledLine line = {{Style::kPlain, text}};
      const int room = std::min(64, terminal.columns - DisplayWidth(text) - 1);
      const StyledLine timeline = Timeline(chain.timeline, room, terminal.utf8);
      line.insert(line.end(), timeline.begin(), timeline.end());
      lines->push_back(line);
    }
    AppendMore(shown, worker.status->chains.size(), lines);
  }
}

void AppendDirectory(const SystemReport& report, int columns, std::vector<StyledLine>* lines) {
  for (const StoreAnswer& store : report.stores) {
    if (!store.status.ok() || store.status->sequences.empty()) continue;
    Table table{.columns = {{"SEQUENCE"},
                            {"tenant", false},
                            {"worker", false},
                            {"policy", false},
                            {"partition"},
                            {"live"},
                            {"sealed"},
                            {"budget"},
                            {"report"},
                            {"plan"},
                            {"label", false}},
                .rows = {}};
    for (const SequenceStatus& s : store.status->sequences) {
      if (table.rows.size() == kSequenceRowsMax) break;
      table.rows.push_back({absl::StrCat(s.sequence), Escaped(s.tenant, 24),
                            Escaped(s.worker_name, 24), Escaped(s.policy, 24),
                            absl::StrCat(s.partition), HumanCount(s.live_tokens),
                            HumanCount(s.sealed_tokens),
                            s.budget_tokens >= 1u << 24 ? "-" : HumanCount(s.budget_tokens),
                            absl::StrCat(s.last_report), absl::StrCat(s.last_plan),
                            s.needs_snapshot ? "stale" : std::string(Letter(s.label))});
    }
    lines->push_back({});
    AppendText(ToText(table, columns), lines);
    AppendMore(table.rows.size(), store.status->sequence_count, lines);
  }
}

}  // namespace

std::vector<std::string> Complaints(const SystemReport& report) {
  std::vector<std::string> complaints;
  for (const StoreAnswer& store : report.stores) Complain(store, &complaints);
  for (const WorkerAnswer& worker : report.workers) Complain(worker, &complaints);
  uint32_t owned = 0;
  bool all_known = !report.stores.empty();
  for (const StoreAnswer& store : report.stores) {
    all_known = all_known && store.status.ok();
    if (store.status.ok()) owned += store.status->partitions_owned;
  }
  if (all_known && owned < kPartitions) {
    complaints.push_back(
        absl::StrCat(kPartitions - owned, " of ", kPartitions, " partitions have no owner here"));
  }
  return complaints;
}

std::vector<std::string> Remarks(const SystemReport& report) {
  std::vector<std::string> remarks;
  const std::string ours(BuildVersion());
  const auto compare = [&](const std::string& where, const std::string& theirs) {
    // Some say the commit after it; two commits of one version understand each other.
    if (theirs.substr(0, theirs.find(' ')) != ours) {
      remarks.push_back(
          absl::StrCat(where, " is of version ", Escaped(theirs, 64), ", this program of ", ours));
    }
  };
  for (const StoreAnswer& store : report.stores) {
    if (store.status.ok()) compare(Where("store", store.endpoint), store.status->version);
  }
  for (const WorkerAnswer& worker : report.workers) {
    if (!worker.status.ok()) continue;
    compare(Where("worker", worker.endpoint), worker.status->version);
    if (worker.status->model.synthetic) {
      remarks.push_back(absl::StrCat(Where("worker", worker.endpoint),
                                     " has random weights: its answers mean nothing"));
    }
  }
  return remarks;
}

std::vector<StyledLine> StatusLines(const SystemReport& report, const Terminal& terminal) {
  std::vector<StyledLine> lines;
  AppendVerdict(report, terminal.columns, &lines);
  AppendStores(report, terminal.columns, &lines);
  AppendWorkers(report, terminal.columns, &lines);
  AppendPools(report, terminal, &lines);
  AppendDefaults(report, &lines);
  if (report.sequences) {
    AppendDirectory(report, terminal.columns, &lines);
    AppendChains(report, terminal, &lines);
  }
  return lines;
}

}  // namespace palimpsest::cli
