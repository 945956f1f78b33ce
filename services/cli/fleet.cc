// SPDX-License-Identifier: Apache-2.0
#include "services/cli/fleet.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "services/cli/assets.h"
#include "services/decode/pool/lane_ledger.h"

namespace palimpsest::cli {
namespace {

constexpr std::chrono::seconds kStartTimeout{60};
constexpr std::chrono::seconds kCallTimeout{15};
constexpr std::chrono::milliseconds kLook{20};
constexpr absl::string_view kListening = "listening on ";

struct Started {
  std::unique_ptr<ChildProcess> process;
  std::string endpoint;
};

absl::StatusOr<Started> StartAndWait(EventLoop* loop, const Clock* clock, absl::string_view name,
                                     const std::vector<std::string>& arguments) {
  KV_ASSIGN_OR_RETURN(const std::string program, FindProgram(name));
  Started started;
  KV_ASSIGN_OR_RETURN(started.process, ChildProcess::Start(program, arguments));
  const Clock::Time deadline = clock->Now() + kStartTimeout;
  while (true) {
    // Ended first: the last line of a process that printed it and died says nothing.
    const std::string obituary = started.process->Obituary();
    if (!obituary.empty()) return absl::InternalError(absl::StrCat("cannot start: ", obituary));
    const std::optional<std::string> line = started.process->FindLine(kListening);
    if (line.has_value()) {
      started.endpoint = *line;
      return started;
    }
    if (clock->Now() > deadline) {
      return absl::DeadlineExceededError(absl::StrCat(
          name, " (pid ", started.process->pid(), ") does not say '", kListening, "...' after ",
          FormatDuration(kStartTimeout), ". Is the machine overloaded?"));
    }
    KV_RETURN_IF_ERROR(loop->Run(kLook));
  }
}

std::vector<std::string> WorkerArguments(const FleetOptions& options, const std::string& store) {
  std::vector<std::string> arguments = {"--model",          options.model,
                                        "--listen",         "127.0.0.1:0",
                                        "--metrics-listen", "127.0.0.1:0",
                                        "--name",           options.name,
                                        "--drain-timeout",  "0s",
                                        "--pool-bytes",     FormatBytes(options.pool_bytes),
                                        "--threads",        absl::StrCat(options.threads),
                                        "--rotate-keys",    std::string(Name(options.rotate_keys))};
  if (!store.empty()) arguments.insert(arguments.end(), {"--store", store});
  if (options.lockstep) arguments.push_back("--lockstep");
  if (!options.calibration.empty()) {
    arguments.insert(arguments.end(), {"--calibration", options.calibration});
  }
  arguments.insert(arguments.end(), options.more.begin(), options.more.end());
  return arguments;
}

}  // namespace

uint32_t PlanLagOf(const FleetOptions& options) {
  return options.store && !options.lockstep ? kPlanLagTokens : 0;
}

absl::StatusOr<std::unique_ptr<Fleet>> Fleet::Start(EventLoop* loop, const Clock* clock,
                                                    const FleetOptions& options) {
  std::unique_ptr<Fleet> fleet(new Fleet);
  std::string worker_endpoint = options.worker;
  if (worker_endpoint.empty()) {
    std::string store_endpoint;
    if (options.store) {
      KV_ASSIGN_OR_RETURN(Started store, StartAndWait(loop, clock, "palimpsest-kvstore",
                                                      {"--listen", "127.0.0.1:0",
                                                       "--metrics-listen", "127.0.0.1:0"}));
      fleet->store_ = std::move(store.process);
      store_endpoint = store.endpoint;
    }
    KV_ASSIGN_OR_RETURN(Started worker, StartAndWait(loop, clock, "palimpsest-decode",
                                                     WorkerArguments(options, store_endpoint)));
    fleet->worker_ = std::move(worker.process);
    worker_endpoint = worker.endpoint;
  }
  const absl::StatusOr<Endpoint> endpoint = ParseEndpoint(worker_endpoint);
  if (!endpoint.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--worker: ", endpoint.status().message()));
  }
  KV_ASSIGN_OR_RETURN(fleet->client_, WorkerClient::Connect(loop, *endpoint, kCallTimeout));
  return fleet;
}

absl::Status Fleet::Explain(EventLoop* loop, const absl::Status& status) {
  if (absl::IsCancelled(status)) return status;
  if (absl::IsUnavailable(status)) (void)loop->Run(std::chrono::milliseconds(200));
  const std::string obituary = WorkerObituary();
  return obituary.empty() ? status : absl::InternalError(obituary);
}

}  // namespace palimpsest::cli
