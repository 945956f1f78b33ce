// SPDX-License-Identifier: Apache-2.0
// palimpsest-decode: wiring only. Two threads of ours: this one runs the network's event loop, the
// other the engine; the store client and the probes bring their own.
#include <kj/async-io.h>
#include <kj/async-unix.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/build_info.h"
#include "common/base/clock.h"
#include "common/base/exit_codes.h"
#include "common/base/health_server.h"
#include "common/base/log.h"
#include "common/base/metrics.h"
#include "common/base/status_macros.h"
#include "common/rpc/rpc_status.h"
#include "services/decode/device/device.h"
#include "services/decode/engine/engine.h"
#include "services/decode/model/calibration_file.h"
#include "services/decode/model/fingerprint.h"
#include "services/decode/model/key_rotation.h"
#include "services/decode/model/query_codebook_file.h"
#include "services/decode/policy_defaults.h"
#include "services/decode/served_policies.h"
#include "services/decode/server/decode_server.h"
#include "services/decode/store_client/store_client.h"
#include "services/decode/worker_observers.h"
#include "services/decode/worker_settings.h"

namespace palimpsest {
namespace {

int Threads(const WorkerSettings& settings) {
  if (settings.threads > 0) return static_cast<int>(settings.threads);
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

absl::Status UseCalibration(const WorkerSettings& settings, const ModelSource& source, Log& log,
                            EngineOptions& options) {
  std::string path = settings.calibration;
  if (source.is_synthetic()) {
    if (path.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "calibration: random weights have none; allowed with --model only");
  }
  if (path.empty()) {
    path = absl::StrCat(source.folder, "/calibration.json");
    if (!std::filesystem::exists(path)) {
      log.Warning("no calibration: every thought is one class", {{"looked_for", path}});
      return absl::OkStatus();
    }
  }
  KV_ASSIGN_OR_RETURN(const std::string fingerprint, FingerprintModel(source.folder));
  KV_ASSIGN_OR_RETURN(const CalibrationFile file, LoadCalibration(path, fingerprint));
  options.sparsity_layers = file.calibration.sparsity_layers;
  options.theta = file.calibration.theta;
  log.Info("calibration", {{"path", path}, {"classes", options.theta.empty() ? 1 : 3}});
  return absl::OkStatus();
}

// Null where there is none, or no policy that is served wants it.
absl::StatusOr<std::shared_ptr<const QueryCodebook>> FindCodebook(const WorkerSettings& settings,
                                                                  const ModelSource& source,
                                                                  Log& log) {
  std::string path = settings.codebook;
  if (source.is_synthetic()) {
    if (path.empty()) return nullptr;
    return absl::InvalidArgumentError(
        "codebook: random weights have none; allowed with --model only");
  }
  if (path.empty()) {
    const std::vector<std::string>& wanted = settings.policies;
    const bool is_wanted =
        wanted.empty() || std::find(wanted.begin(), wanted.end(), "anticipate") != wanted.end();
    path = absl::StrCat(source.folder, "/", kQueryCodebookFileName);
    if (!is_wanted || !std::filesystem::exists(path)) return nullptr;
  }
  KV_ASSIGN_OR_RETURN(const std::string fingerprint, FingerprintModel(source.folder));
  absl::StatusOr<QueryCodebookFile> file = LoadQueryCodebook(path, source.config, fingerprint);
  if (!file.ok()) {
    return absl::Status(file.status().code(), absl::StrCat("codebook: ", file.status().message()));
  }
  log.Info("codebook", {{"path", path}, {"queries", file->codebook.queries}});
  return std::make_shared<const QueryCodebook>(std::move(file->codebook));
}

void TellDefaults(const PolicyDefaults& defaults, Log& log) {
  log.Info("default policy",
           {{"policy", Described(defaults.worker)}, {"because", defaults.because}});
  for (const auto& [tenant, spec] : defaults.tenants) {
    log.Info("tenant's policy", {{"tenant", tenant}, {"policy", Described(spec)}});
  }
}

// Everything a worker is made of, in the order it is built and torn down.
struct Worker {
  std::unique_ptr<Clock> clock = NewSteadyClock();
  ModelSource source;
  PolicyDefaults defaults;
  bool keys_rotated = false;
  std::string device;
  std::unique_ptr<TimedBackend> backend;
  std::unique_ptr<Model> model;  // may use the backend's device
  std::unique_ptr<StoreClientObserver> store_observer;
  std::unique_ptr<ControlPlane> control;
  std::unique_ptr<EngineObserver> observer;
  std::unique_ptr<Engine> engine;
};

// The model and the backend. Fills in what the worker tells of them.
absl::Status BuildDevice(const DeviceOptions& options, Log* log, Worker& worker) {
  KV_ASSIGN_OR_RETURN(Device device, NewDevice(options));
  if (device.why_not_cuda.empty()) {
    log->Info("device", {{"device", device.name}, {"keys_rotated", options.rotate_keys}});
  } else {
    log->Info("device", {{"device", device.name},
                         {"no_gpu_because", device.why_not_cuda},
                         {"keys_rotated", options.rotate_keys}});
  }
  if (worker.source.is_synthetic()) {
    log->Warning("RANDOM WEIGHTS: good for speed, what this worker says means nothing",
                 {{"model", worker.source.name()}});
  }
  worker.device = device.name;
  worker.model = std::move(device.model);
  worker.backend =
      NewTimedBackend(std::move(device.backend), worker.clock.get(), device.asynchronous);
  return absl::OkStatus();
}

absl::Status Build(const WorkerSettings& settings, WorkerMetrics* metrics, Log* log,
                   Worker& worker) {
  KV_ASSIGN_OR_RETURN(worker.source, FindModel(settings.model, settings.synthetic_weights));
  KV_ASSIGN_OR_RETURN(const std::shared_ptr<const QueryCodebook> codebook,
                      FindCodebook(settings, worker.source, *log));
  KV_ASSIGN_OR_RETURN(const ServedPolicies served,
                      ServePolicies(settings.policies, codebook != nullptr));
  KV_ASSIGN_OR_RETURN(worker.defaults,
                      ChooseDefaults(settings.default_policy, settings.tenants, served));
  TellDefaults(worker.defaults, *log);
  KV_ASSIGN_OR_RETURN(worker.keys_rotated, RotatesKeys(settings.rotate_keys, worker.source.config));
  DeviceOptions device{.choice = settings.device,
                       .source = worker.source,
                       .open_groups = settings.batch_max,
                       .rows_max = static_cast<int>(settings.rows_max),
                       .logit_rows_max = static_cast<int>(settings.batch_max),
                       .slot_scores = served.slot_scores,
                       .residue = served.residue,
                       .query_window = served.query_window,
                       .rotate_keys = worker.keys_rotated,
                       .codebook = codebook,
                       .threads = Threads(settings),
                       .log = log};
  const CacheShape shape = BackendConfigOf(device).shape;
  KV_ASSIGN_OR_RETURN(PagePool pool,
                      PagePool::Create({.shape = shape, .pool_bytes = settings.pool_bytes}));
  device.pool_bytes = pool.capacity_bytes();
  KV_RETURN_IF_ERROR(BuildDevice(device, log, worker));
  EngineOptions options{
      .batch_max = settings.batch_max,
      .waiting_max = settings.waiting_max,
      .lockstep = settings.lockstep,
      .lockstep_deadline =
          std::chrono::duration_cast<std::chrono::milliseconds>(settings.lockstep_deadline),
      .query_bytes = QueryWindowBytes(shape, worker.source.config.query_heads, served.query_window),
      .lane_shares = codebook == nullptr ? std::vector<float>() : codebook->lane_shares,
      .policies = served.names};
  KV_RETURN_IF_ERROR(UseCalibration(settings, worker.source, *log, options));
  if (!settings.store.empty()) {
    worker.store_observer = NewStoreClientMetrics(metrics, log);
    worker.control = NewStoreClient(
        {.endpoint = settings.store,
         .worker_name = settings.name,
         .credential = settings.credential,
         .heartbeat = std::chrono::duration_cast<std::chrono::milliseconds>(settings.heartbeat),
         .observer = worker.store_observer.get()});
  }
  worker.observer = NewEngineMetrics(metrics);
  worker.engine =
      std::make_unique<Engine>(options, worker.model.get(), worker.backend.get(), std::move(pool),
                               worker.control.get(), worker.clock.get(), worker.observer.get());
  return absl::OkStatus();
}

// Runs the event loop until the process is told to end, or the engine breaks.
class Loop {
 public:
  Loop(kj::AsyncIoContext& io, const WorkerSettings& settings, Worker& worker,
       WorkerMetrics& metrics, HealthServer& health, Log& log)
      : io_(io),
        settings_(settings),
        worker_(worker),
        metrics_(metrics),
        health_(health),
        log_(log) {}

  absl::Status Run() {
    DecodeServer server(
        *io_.provider, io_.unixEventPort, worker_.engine.get(), worker_.clock.get(),
        {.name = settings_.name,
         .version = std::string(BuildVersion()),
         .store_endpoint = settings_.store,
         .lockstep = settings_.lockstep,
         .model_path = worker_.source.name(),
         .synthetic = worker_.source.is_synthetic(),
         .model = worker_.model->config(),
         .policies = worker_.defaults,
         .keys_rotated = worker_.keys_rotated},
        {.on_framing_refused = [this](FramingError) { Rejected(ConnectionRejection::kFraming); },
         .on_connection_limit = [this] { Rejected(ConnectionRejection::kLimit); }});
    auto engine_ended = kj::newPromiseAndFulfiller<void>();
    absl::Status engine_status;
    WakeQueue<int> ended(1);
    WakeQueueReader<int> ended_reader(io_.unixEventPort, ended);
    std::thread engine([&] {
      engine_status = worker_.engine->Run();
      ended.TryPush(0);
    });
    auto watch = ended_reader.Run([&](auto) { engine_ended.fulfiller->fulfill(); });
    const std::string address = FormatEndpoint(settings_.listen);
    const absl::Status status = CatchKj([&] {
      server.Serve(address, [this](uint16_t port) { Bound(port); })
          .exclusiveJoin(Tick(server))
          .exclusiveJoin(Drained(server))
          .exclusiveJoin(kj::mv(engine_ended.promise))
          .exclusiveJoin(kj::mv(watch))
          .wait(io_.waitScope);
    });
    worker_.engine->Stop();
    engine.join();
    return engine_status.ok() ? status : engine_status;
  }

 private:
  void Rejected(ConnectionRejection reason) {
    metrics_.process.connection_rejections_total[reason].Increment();
  }

  void Bound(uint16_t port) {
    Endpoint bound = settings_.listen;
    bound.port = port;
    std::printf("listening on %s\n", FormatEndpoint(bound).c_str());
    std::printf("metrics on %s\n", FormatEndpoint(health_.address()).c_str());
    std::fflush(stdout);
    health_.SetStarted();
    health_.SetReady();
    log_.Info("serving", {{"listen", FormatEndpoint(bound)}, {"model", worker_.source.name()}});
  }

  kj::Promise<void> Tick(DecodeServer& server) {
    constexpr auto kInterval = 100 * kj::MILLISECONDS;
    health_.Touch();
    metrics_.process.rpc_connections.Set(server.connection_count());
    const Clock::Time due = worker_.clock->Now() + std::chrono::milliseconds(100);
    return io_.provider->getTimer().afterDelay(kInterval).then([this, due, &server] {
      metrics_.process.event_loop_lag_seconds.Observe(
          std::max(0.0, std::chrono::duration<double>(worker_.clock->Now() - due).count()));
      return Tick(server);
    });
  }

  // SIGTERM or SIGINT: refuse new requests, finish what runs, end. A second signal ends at once.
  kj::Promise<void> Drained(DecodeServer& server) {
    return Signal().then([this, &server]() -> kj::Promise<void> {
      log_.Info("draining");
      health_.SetNotReady("draining");
      worker_.engine->Drain();
      const auto timeout =
          std::chrono::duration_cast<std::chrono::milliseconds>(settings_.drain_timeout).count();
      return Idle(server, 0)
          .exclusiveJoin(io_.provider->getTimer().afterDelay(timeout * kj::MILLISECONDS))
          .exclusiveJoin(Signal());
    });
  }

  kj::Promise<void> Signal() {
    return io_.unixEventPort.onSignal(SIGTERM).ignoreResult().exclusiveJoin(
        io_.unixEventPort.onSignal(SIGINT).ignoreResult());
  }

  // Resolves when nothing runs and every client has been told. Looks twice in a row: the engine's
  // last word may still wait for this loop at the first look.
  kj::Promise<void> Idle(DecodeServer& server, int quiet_looks) {
    const bool quiet = worker_.engine->outstanding() == 0 && server.flushed();
    quiet_looks = quiet ? quiet_looks + 1 : 0;
    if (quiet_looks == 2) return kj::READY_NOW;
    return io_.provider->getTimer().afterDelay(20 * kj::MILLISECONDS).then([=, this, &server] {
      return Idle(server, quiet_looks);
    });
  }

  kj::AsyncIoContext& io_;
  const WorkerSettings& settings_;
  Worker& worker_;
  WorkerMetrics& metrics_;
  HealthServer& health_;
  Log& log_;
};

int Main(int argc, char** argv) {
  WorkerSettings settings;
  const std::unique_ptr<SettingsTable> table = NewWorkerSettingsTable(&settings);
  if (const std::optional<int> code = LoadSettings(argc, argv, table.get())) return *code;
  // Before any thread exists, so that none of them takes the signals.
  kj::UnixEventPort::captureSignal(SIGTERM);
  kj::UnixEventPort::captureSignal(SIGINT);
  ::signal(SIGPIPE, SIG_IGN);

  const std::unique_ptr<Log> log = NewLog(settings.log);
  prometheus::Registry registry;
  const std::unique_ptr<WorkerMetrics> metrics = NewWorkerMetrics(&registry);
  Worker worker;
  if (const absl::Status built = Build(settings, metrics.get(), log.get(), worker); !built.ok()) {
    std::fprintf(stderr, "palimpsest-decode: %s\n", std::string(built.message()).c_str());
    return absl::IsInvalidArgument(built) || absl::IsNotFound(built) ? kExitUsage : kExitFailed;
  }
  HealthOptions health_options{
      .listen = settings.metrics_listen, .clock = worker.clock.get(), .registry = &registry};
  health_options.statusz = [&worker] {
    const EngineSnapshot s = worker.engine->Snapshot();
    const ModelSource& source = worker.source;
    return absl::StrCat(
        "palimpsest-decode ", BuildVersion(), "\nmodel: ", source.name(),
        source.is_synthetic() ? ", RANDOM WEIGHTS: for speed only" : "",
        "\ndevice: ", worker.device, "\nkeys: ", worker.keys_rotated ? "rotated" : "as they are",
        "\ndefault policy: ", Described(worker.defaults.worker), "\nchains: ", s.chains.size(),
        " running, ", s.waiting, " waiting\npool: ", s.pool.used_bytes, " of ",
        s.pool.capacity_bytes, " bytes used\ntokens decoded: ", s.tokens_decoded,
        "\nstore: ", s.store == StoreState::kConnected ? "connected" : "away", "\n");
  };
  absl::StatusOr<std::unique_ptr<HealthServer>> health = NewHealthServer(health_options);
  if (!health.ok()) {
    std::fprintf(stderr, "palimpsest-decode: metrics_listen: %s\n",
                 std::string(health.status().message()).c_str());
    return kExitFailed;
  }
  kj::AsyncIoContext io = kj::setupAsyncIo();
  const absl::Status status = Loop(io, settings, worker, *metrics, **health, *log).Run();
  if (status.ok()) return kExitOk;
  std::fprintf(stderr, "palimpsest-decode: %s\n", std::string(status.message()).c_str());
  return kExitFailed;
}

}  // namespace
}  // namespace palimpsest

int main(int argc, char** argv) { return palimpsest::Main(argc, argv); }
