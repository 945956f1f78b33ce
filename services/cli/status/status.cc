// SPDX-License-Identifier: Apache-2.0
// `palimpsest status`: asks, samples for a moment, shows; again and again with --watch.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>

#include "absl/strings/str_cat.h"
#include "common/base/exit_codes.h"
#include "common/base/status_macros.h"
#include "services/cli/client/store_client.h"
#include "services/cli/client/worker_client.h"
#include "services/cli/command.h"
#include "services/cli/status/report.h"

namespace palimpsest::cli {
namespace {

enum class OutputFormat : uint8_t { kTable, kJson };

constexpr uint32_t kSequencesMax = 1000;
constexpr std::chrono::milliseconds kSample{500};

struct StatusSettings {
  std::vector<std::string> store;
  std::vector<std::string> worker;
  bool sequences = false;
  bool watch = false;
  std::chrono::nanoseconds interval = std::chrono::seconds(1);
  std::chrono::nanoseconds timeout = std::chrono::seconds(5);
  OutputFormat format = OutputFormat::kTable;
};

std::unique_ptr<SettingsTable> NewTable(StatusSettings* settings) {
  auto table = std::make_unique<SettingsTable>(
      "palimpsest status", "Is it healthy, and where is what: asks running processes.");
  table->Section("Whom to ask");
  table->List("store", &settings->store, {0, 64},
              {"Store shards; repeat it or separate by commas. Without --store and --worker the "
               "usual ports of this machine are asked, 7401 and 7501.",
               "127.0.0.1:7401"});
  table->List("worker", &settings->worker, {0, 64},
              {"Decode workers; repeat it or separate by commas.", "127.0.0.1:7501"});
  table->Duration("timeout", &settings->timeout,
                  {std::chrono::milliseconds(50), std::chrono::minutes(10)},
                  {"For all answers together; a part that stays silent is shown as '?'.", "5s"});
  table->Section("Output");
  table->Switch("sequences", &settings->sequences, "List the sequences, with their timelines.");
  table->Choice<OutputFormat>("format", &settings->format,
                              {{"table", OutputFormat::kTable}, {"json", OutputFormat::kJson}},
                              "With --watch, json writes one document a line.");
  table->Switch("watch", &settings->watch, "Ask again and again, until Ctrl-C.");
  table->Duration("interval", &settings->interval,
                  {std::chrono::milliseconds(100), std::chrono::hours(1)},
                  {"Between two looks of --watch.", "1s"});
  table->Example("", "the processes of this machine, on their usual ports");
  table->Example("--store 10.0.0.5:7401 --worker 10.0.0.6:7501 --worker 10.0.0.7:7501",
                 "a shard and two workers");
  table->Example("--sequences --watch", "who thinks what, once a second");
  table->Example("--format json", "for scripts; the exit code is 10 when something is wrong");
  return table;
}

absl::StatusOr<std::vector<Endpoint>> Endpoints(absl::string_view flag,
                                                const std::vector<std::string>& texts) {
  std::vector<Endpoint> endpoints;
  for (const std::string& text : texts) {
    const absl::StatusOr<Endpoint> endpoint = ParseEndpoint(text);
    if (!endpoint.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(flag, ": ", endpoint.status().message()));
    }
    endpoints.push_back(*endpoint);
  }
  return endpoints;
}

class StatusVerb {
 public:
  StatusVerb(EventLoop* loop, const StatusSettings& settings)
      : loop_(loop), settings_(settings), clock_(NewSteadyClock()) {}

  absl::Status Prepare() {
    StatusSettings asked = settings_;
    if (asked.store.empty() && asked.worker.empty()) {
      asked.store = {"127.0.0.1:7401"};
      asked.worker = {"127.0.0.1:7501"};
    }
    KV_ASSIGN_OR_RETURN(stores_, Endpoints("--store", asked.store));
    KV_ASSIGN_OR_RETURN(workers_, Endpoints("--worker", asked.worker));
    return absl::OkStatus();
  }

  // Cancelled when Ctrl-C came; otherwise whatever did not work is part of the report.
  absl::StatusOr<SystemReport> Ask() {
    SystemReport report;
    report.sequences = settings_.sequences;
    const Clock::Duration each =
        settings_.timeout / std::max<size_t>(1, stores_.size() + workers_.size());
    const char* const credential = std::getenv("PALIMPSEST_CREDENTIAL");
    const StatusQuery query{.credential = credential == nullptr ? "" : credential,
                            .sequences_max = settings_.sequences ? kSequencesMax : 0,
                            .cursor = 0,
                            .tenant = ""};
    for (const Endpoint& endpoint : stores_) {
      report.stores.push_back({endpoint, AskStore(loop_, endpoint, query, each)});
    }
    std::vector<std::unique_ptr<WorkerClient>> clients;
    for (const Endpoint& endpoint : workers_) {
      auto client = WorkerClient::Connect(loop_, endpoint, each);
      WorkerAnswer& answer = report.workers.emplace_back();
      answer.endpoint = endpoint;
      if (client.ok()) answer.status = (*client)->first_status();
      if (!client.ok()) answer.status = client.status();
      clients.push_back(client.ok() ? *std::move(client) : nullptr);
    }
    KV_RETURN_IF_ERROR(Sample(clients, &report));
    return report;
  }

 private:
  // Counters twice, a moment apart: the rate now, not since the start.
  absl::Status Sample(const std::vector<std::unique_ptr<WorkerClient>>& clients,
                      SystemReport* report) {
    const bool any = std::any_of(clients.begin(), clients.end(),
                                 [](const auto& client) { return client != nullptr; });
    const Clock::Time start = clock_->Now();
    KV_RETURN_IF_ERROR(loop_->Run(any ? Clock::Duration(kSample) : Clock::Duration(0)));
    for (size_t i = 0; i < clients.size(); ++i) {
      if (clients[i] == nullptr) continue;
      WorkerAnswer& answer = report->workers[i];
      answer.status = clients[i]->Status();
      if (!answer.status.ok()) continue;
      const double seconds = std::chrono::duration<double>(clock_->Now() - start).count();
      const uint64_t tokens =
          answer.status->tokens_decoded - clients[i]->first_status().tokens_decoded;
      answer.tokens_per_second = static_cast<double>(tokens) / seconds;
    }
    return absl::OkStatus();
  }

  EventLoop* loop_;
  const StatusSettings& settings_;
  std::unique_ptr<Clock> clock_;
  std::vector<Endpoint> stores_, workers_;
};

// Nobody answered: that is failure, not ill health. 4 when all of them were only slow.
int ExitCodeOf(const SystemReport& report) {
  bool any = false, all_slow = true;
  const auto count = [&](const absl::Status& status) {
    any = any || status.ok();
    all_slow = all_slow && absl::IsDeadlineExceeded(status);
  };
  for (const StoreAnswer& store : report.stores) count(store.status.status());
  for (const WorkerAnswer& worker : report.workers) count(worker.status.status());
  if (!any) return all_slow ? kExitTimeout : kExitFailed;
  return Complaints(report).empty() ? kExitOk : kExitUnhealthy;
}

std::string Printed(const SystemReport& report, const StatusSettings& settings) {
  if (settings.format == OutputFormat::kJson) return StatusJson(report, !settings.watch);
  const Terminal terminal = ProbeTerminal(STDOUT_FILENO);
  std::string text;
  for (const StyledLine& line : StatusLines(report, terminal)) {
    absl::StrAppend(&text, Rendered(line, terminal.columns, terminal.colour), "\n");
  }
  return text;
}

absl::Status Watch(EventLoop& loop, StatusVerb& verb, const StatusSettings& settings) {
  LiveBlock block(STDOUT_FILENO);
  while (true) {
    const absl::StatusOr<SystemReport> report = verb.Ask();
    if (!report.ok()) return report.status();
    const Terminal terminal = ProbeTerminal(STDOUT_FILENO);
    if (terminal.live && settings.format == OutputFormat::kTable) {
      block.Draw(terminal, StatusLines(*report, terminal));
    } else {
      const bool table = settings.format == OutputFormat::kTable;
      PrintResult(absl::StrCat(Printed(*report, settings), table ? "\n" : ""));
    }
    KV_RETURN_IF_ERROR(loop.Run(settings.interval));
  }
}

VerbEnd Once(StatusVerb& verb, const StatusSettings& settings) {
  const absl::StatusOr<SystemReport> report = verb.Ask();
  if (!report.ok()) return {.status = report.status()};
  return {.text = Printed(*report, settings), .exit_code = ExitCodeOf(*report)};
}

}  // namespace

int RunStatus(const std::vector<std::string>& arguments) {
  StatusSettings settings;
  const auto table = NewTable(&settings);
  if (const std::optional<int> code = LoadVerbSettings(arguments, table.get())) return *code;
  return RunWithLoop([&](EventLoop& loop) -> VerbEnd {
    StatusVerb verb(&loop, settings);
    if (const absl::Status status = verb.Prepare(); !status.ok()) return {.status = status};
    if (settings.watch) return {.status = Watch(loop, verb, settings)};
    return Once(verb, settings);
  });
}

}  // namespace palimpsest::cli
