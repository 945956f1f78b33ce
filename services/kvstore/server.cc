// SPDX-License-Identifier: Apache-2.0
#include "services/kvstore/server.h"

#include <kj/async-io.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <thread>
#include <utility>

#include "common/base/check.h"
#include "common/rpc/rpc_connection.h"
#include "common/rpc/rpc_status.h"
#include "common/rpc/wake_queue.h"
#include "services/kvstore/connection.h"

namespace palimpsest {
namespace {

constexpr std::chrono::milliseconds kTickMin{5};
constexpr std::chrono::milliseconds kTickMax{250};
constexpr size_t kCommandsMax = 16;
// For the goodbyes to leave, at the end of a drain.
constexpr auto kLastWordsTimeout = 400 * kj::MILLISECONDS;

struct Command {
  bool stop = false;  // else: drain
  std::chrono::milliseconds grace{0};
};

// Everything that lives on the server's thread.
class Loop final : private kj::TaskSet::ErrorHandler {
 public:
  Loop(const StoreServerOptions& options, const Clock& clock, WakeQueue<Command>& commands,
       std::atomic<bool>& drained)
      : options_(options),
        clock_(clock),
        io_(kj::setupAsyncIo()),
        engine_(options.engine, clock, options.observer),
        hub_{engine_, clock, io_.provider->getTimer(), options, options.observer, {}, {}},
        reader_(io_.unixEventPort, commands),
        drained_(drained),
        tasks_(*this) {}

  // Throws what KJ throws when the address is no address, or is taken.
  uint16_t Listen() {
    auto address =
        io_.provider->getNetwork().parseAddress(options_.listen.c_str()).wait(io_.waitScope);
    listener_ = kj::heap<RpcListener>(
        address->listen(), io_.provider->getTimer(), options_.connections_max,
        [this](kj::Own<kj::AsyncIoStream> socket) {
          auto connection = kj::heap<Connection>(hub_, kj::mv(socket));
          auto served = connection->Serve();
          return served.attach(kj::mv(connection));
        },
        [this] { hub_.OnRejected(StoreRejection::kConnectionLimit); });
    return listener_->port();
  }

  void Run() {
    tasks_.add(listener_->Run());
    tasks_.add(Tick());
    tasks_.add(reader_.Run([this](std::vector<Command> commands) {
      for (const Command& command : commands) Obey(command);
    }));
    stop_.promise.wait(io_.waitScope);
  }

 private:
  void taskFailed(kj::Exception&&) override { KV_CHECK(false); }  // none of ours may fail

  void Obey(const Command& command) {
    if (command.stop) return stop_.fulfiller->fulfill();
    engine_.Drain();
    drain_until_ = std::min(drain_until_, clock_.Now() + command.grace);
  }

  std::chrono::milliseconds tick() const {
    return std::clamp(options_.engine.heartbeat / 4, kTickMin, kTickMax);
  }

  kj::Promise<void> Tick() {
    const Clock::Time planned = clock_.Now() + tick();
    return io_.provider->getTimer()
        .afterDelay(tick().count() * kj::MILLISECONDS)
        .then([this, planned]() -> kj::Promise<void> {
          engine_.Expire();
          hub_.SendGoodbyes();
          for (Connection* connection : hub_.connections) connection->Tick();
          if (options_.observer != nullptr) {
            options_.observer->OnTick(engine_, listener_->connection_count(),
                                      std::max(clock_.Now() - planned, Clock::Duration(0)));
          }
          if (engine_.draining()) ContinueDrain();
          return Tick();
        });
  }

  void ContinueDrain() {
    if (said_goodbye_) return;
    if (engine_.sequence_count() > 0 && clock_.Now() < drain_until_) return;
    said_goodbye_ = true;
    const Refusal reason = {.code = Refusal::Code::kDraining,
                            .text = "the store is about to end",
                            .retry_after_ms = 1000};
    for (Connection* connection : hub_.connections) connection->SayGoodbye(reason);
    tasks_.add(
        io_.provider->getTimer().afterDelay(kLastWordsTimeout).then([this] { drained_ = true; }));
  }

  const StoreServerOptions& options_;
  const Clock& clock_;
  kj::AsyncIoContext io_;
  StoreEngine engine_;
  Hub hub_;
  kj::Own<RpcListener> listener_;
  WakeQueueReader<Command> reader_;
  std::atomic<bool>& drained_;
  Clock::Time drain_until_ = Clock::Time::max();
  bool said_goodbye_ = false;
  kj::PromiseFulfillerPair<void> stop_ = kj::newPromiseAndFulfiller<void>();
  kj::TaskSet tasks_;
};

class ThreadedStoreServer final : public StoreServer {
 public:
  explicit ThreadedStoreServer(StoreServerOptions options)
      : options_(std::move(options)), steady_(NewSteadyClock()), commands_(kCommandsMax) {}

  ~ThreadedStoreServer() override {
    if (!thread_.joinable()) return;
    commands_.PushAlways({.stop = true});
    thread_.join();
  }

  absl::Status Start() {
    std::promise<absl::Status> listening;
    auto result = listening.get_future();
    thread_ = std::thread([this, &listening] { RunThread(listening); });
    absl::Status status = result.get();
    if (!status.ok()) thread_.join();
    return status;
  }

  uint16_t port() const override { return port_; }
  void Drain(std::chrono::milliseconds grace) override { commands_.TryPush({.grace = grace}); }
  bool drained() const override { return drained_; }

 private:
  void RunThread(std::promise<absl::Status>& listening) {
    bool started = false;
    // A peer's broken messages are counted, not printed.
    const absl::Status status = CatchQuietly([&] {
      const Clock& clock = options_.clock != nullptr ? *options_.clock : *steady_;
      Loop loop(options_, clock, commands_, drained_);
      port_ = loop.Listen();
      started = true;
      listening.set_value(absl::OkStatus());
      loop.Run();
    });
    if (started) {
      KV_CHECK(status.ok());
    } else {
      listening.set_value(absl::UnavailableError(status.message()));
    }
  }

  const StoreServerOptions options_;
  const std::unique_ptr<Clock> steady_;
  WakeQueue<Command> commands_;
  std::atomic<bool> drained_{false};
  std::atomic<uint16_t> port_{0};
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StoreServer>> StartStoreServer(StoreServerOptions options) {
  auto server = std::make_unique<ThreadedStoreServer>(std::move(options));
  if (absl::Status status = server->Start(); !status.ok()) return status;
  return server;
}

}  // namespace palimpsest
