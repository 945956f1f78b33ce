// SPDX-License-Identifier: Apache-2.0
// palimpsest-kvstore: wiring only. One thread serves workers, the probes bring their own, this one
// waits for signals.
#include <prometheus/registry.h>
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "common/base/build_info.h"
#include "common/base/clock.h"
#include "common/base/exit_codes.h"
#include "common/base/health_server.h"
#include "common/base/log.h"
#include "common/base/metrics.h"
#include "services/kvstore/server.h"
#include "services/kvstore/store_observer.h"
#include "services/kvstore/store_settings.h"

namespace palimpsest {
namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;

// What no thread takes but the one that waits for it.
sigset_t BlockedSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

StoreServerOptions ServerOptions(const StoreSettings& settings, StoreServerObserver* observer) {
  StoreServerOptions options;
  options.listen = FormatEndpoint(settings.listen);
  // A restarted shard must be told from the one before; the clock does, if nobody says better.
  options.engine.epoch =
      settings.epoch != 0 ? settings.epoch : static_cast<uint64_t>(std::time(nullptr));
  options.engine.version = absl::StrCat(BuildVersion(), " ", BuildCommit());
  options.engine.credential = settings.credential;
  options.engine.heartbeat = duration_cast<milliseconds>(settings.heartbeat);
  options.engine.sequences_max = settings.sequences_max;
  options.engine.sessions_max = settings.connections_max;
  options.engine.unacknowledged_plans_max = settings.unacknowledged_plans_max;
  options.connections_max = settings.connections_max;
  options.observer = observer;
  return options;
}

// The first signal drains, the second ends at once.
int ServeUntilSignal(const StoreSettings& settings, const sigset_t& signals, StoreServer& server,
                     HealthServer& health, Log& log) {
  int signal = 0;
  sigwait(&signals, &signal);
  log.Info("draining", {{"signal", signal}});
  health.SetNotReady("draining");
  server.Drain(duration_cast<milliseconds>(settings.drain_timeout));
  constexpr timespec kPoll = {.tv_sec = 0, .tv_nsec = 20'000'000};
  while (!server.drained()) {
    if (sigtimedwait(&signals, nullptr, &kPoll) > 0) {
      log.Warning("ended by a second signal");
      return kExitFailed;
    }
  }
  log.Info("drained");
  return kExitOk;
}

int Fail(absl::string_view key, const absl::Status& status) {
  std::fprintf(stderr, "palimpsest-kvstore: %s: %s\n", std::string(key).c_str(),
               std::string(status.message()).c_str());
  return kExitFailed;
}

int Main(int argc, char** argv) {
  StoreSettings settings;
  const std::unique_ptr<SettingsTable> table = NewStoreSettingsTable(&settings);
  if (const std::optional<int> code = LoadSettings(argc, argv, table.get())) return *code;
  const sigset_t signals = BlockedSignals();
  ::signal(SIGPIPE, SIG_IGN);

  const std::unique_ptr<Log> log = NewLog(settings.log);
  prometheus::Registry registry;
  const std::unique_ptr<StoreMetrics> metrics = NewStoreMetrics(&registry);
  const std::unique_ptr<Clock> clock = NewSteadyClock();
  const std::unique_ptr<StoreObserver> observer = NewStoreObserver(metrics.get(), log.get());
  HealthOptions health_options{
      .listen = settings.metrics_listen, .clock = clock.get(), .registry = &registry};
  health_options.statusz = [&observer] {
    return absl::StrCat("palimpsest-kvstore ", BuildVersion(), "\nsessions: ", observer->sessions(),
                        "\nsequences: ", observer->sequences(), "\n");
  };
  auto health = NewHealthServer(health_options);
  if (!health.ok()) return Fail("metrics_listen", health.status());
  observer->SetHealth(health->get());

  const StoreServerOptions options = ServerOptions(settings, observer.get());
  auto server = StartStoreServer(options);
  if (!server.ok()) return Fail("listen", server.status());
  Endpoint bound = settings.listen;
  bound.port = (*server)->port();
  std::printf("listening on %s\nmetrics on %s\n", FormatEndpoint(bound).c_str(),
              FormatEndpoint((*health)->address()).c_str());
  std::fflush(stdout);
  (*health)->SetStarted();
  (*health)->SetReady();
  log->Info("serving", {{"listen", FormatEndpoint(bound)}, {"epoch", options.engine.epoch}});
  const int code = ServeUntilSignal(settings, signals, **server, **health, *log);
  server->reset();
  observer->SetHealth(nullptr);
  return code;
}

}  // namespace
}  // namespace palimpsest

int main(int argc, char** argv) { return palimpsest::Main(argc, argv); }
