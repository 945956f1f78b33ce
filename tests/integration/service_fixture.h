// SPDX-License-Identifier: Apache-2.0
// A real store and a real worker as child processes, with the shipped reasoner, and a client.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/clock.h"
#include "services/cli/child_process.h"
#include "services/cli/client/event_loop.h"
#include "services/cli/client/store_client.h"
#include "services/cli/client/worker_client.h"
#include "services/cli/countdown.h"
#include "services/cli/demo/runner.h"
#include "services/decode/model/tokenizer.h"

namespace palimpsest::cli {

using std::chrono::milliseconds;
using std::chrono::seconds;

inline constexpr char kModel[] = "lab/reasoner/model";
// Where heartbeats are the subject; elsewhere a busy machine must not end a session.
inline constexpr char kQuickHeartbeat[] = "100ms";
inline constexpr char kCalmHeartbeat[] = "5s";

// A child that printed where it listens.
struct Service {
  std::unique_ptr<ChildProcess> process;
  Endpoint endpoint;
  Endpoint metrics;

  void Signal(int number) const { ASSERT_EQ(::kill(process->pid(), number), 0); }
};

inline Service StartService(const std::string& program, std::vector<std::string> arguments,
                            const std::string& heartbeat) {
  arguments.insert(arguments.end(), {"--metrics-listen", "127.0.0.1:0", "--heartbeat", heartbeat,
                                     "--log-level", "error"});
  Service service;
  auto process = ChildProcess::Start(program, arguments);
  EXPECT_TRUE(process.ok()) << process.status();
  if (!process.ok()) return service;
  service.process = *std::move(process);
  for (int i = 0; i < 2000; ++i) {
    const auto listen = service.process->FindLine("listening on ");
    const auto metrics = service.process->FindLine("metrics on ");
    if (listen.has_value() && metrics.has_value()) {
      service.endpoint = *ParseEndpoint(*listen);
      service.metrics = *ParseEndpoint(*metrics);
      return service;
    }
    if (service.process->Ended().has_value()) break;
    std::this_thread::sleep_for(milliseconds(10));
  }
  ADD_FAILURE() << program << " did not come up: " << service.process->Obituary();
  return service;
}

inline Service StartStore(const std::string& listen = "127.0.0.1:0",
                          const std::string& heartbeat = kCalmHeartbeat) {
  return StartService(KVSTORE, {"--listen", listen}, heartbeat);
}

inline Service StartWorker(const Service* store, std::vector<std::string> more = {},
                           const std::string& pool_bytes = "128MiB",
                           const std::string& heartbeat = kCalmHeartbeat) {
  std::vector<std::string> arguments = {"--listen",     "127.0.0.1:0", "--model",   kModel,
                                        "--pool-bytes", pool_bytes,    "--threads", "2"};
  if (store != nullptr) {
    arguments.insert(arguments.end(), {"--store", FormatEndpoint(store->endpoint)});
  }
  arguments.insert(arguments.end(), more.begin(), more.end());
  return StartService(DECODE, arguments, heartbeat);
}

class ServiceTest : public testing::Test {
 protected:
  // Short problems first, so that tests end soon.
  std::vector<CountdownProblem> Problems(size_t count) {
    auto problems = ReadProblems("lab/reasoner/problems/short.jsonl");
    EXPECT_TRUE(problems.ok()) << problems.status();
    std::sort(problems->begin(), problems->end(),
              [](const auto& a, const auto& b) { return a.chain_tokens < b.chain_tokens; });
    problems->resize(count);
    return *std::move(problems);
  }

  static PolicySpec Spec(const std::string& policy, uint32_t budget = 0) {
    PolicySpec spec = *DefaultSpec(policy);
    if (budget > 0) spec.budget_tokens = budget;
    return spec;
  }

  RunOptions Options(PolicySpec spec) const {
    RunOptions options;
    options.spec = std::move(spec);
    options.bounded = true;
    options.seed = 1;
    options.interval = milliseconds(50);
    options.deadline = clock_->Now() + seconds(240);
    return options;
  }

  std::unique_ptr<WorkerClient> Connect(EventLoop& loop, const Service& worker) {
    auto client = WorkerClient::Connect(&loop, worker.endpoint, seconds(20));
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }

  // Polls until the worker is, or is not, connected to its store.
  static bool WaitForLink(EventLoop& loop, WorkerClient& client, StoreLink wanted) {
    for (int i = 0; i < 400; ++i) {
      const auto status = client.Status();
      if (status.ok() && status->store == wanted) return true;
      if (!loop.Run(milliseconds(25)).ok()) return false;
    }
    return false;
  }

  // A store, a worker that is connected to it, and a client; no client when something failed.
  struct Pair {
    Service store;
    Service worker;
    std::unique_ptr<WorkerClient> client;
  };
  Pair StartPair(EventLoop& loop, std::vector<std::string> worker_arguments = {},
                 const std::string& heartbeat = kCalmHeartbeat) {
    Pair pair{.store = StartStore("127.0.0.1:0", heartbeat), .worker = {}, .client = nullptr};
    pair.worker = StartWorker(&pair.store, std::move(worker_arguments), "128MiB", heartbeat);
    pair.client = Connect(loop, pair.worker);
    if (pair.client != nullptr && !WaitForLink(loop, *pair.client, StoreLink::kConnected)) {
      ADD_FAILURE() << "the worker did not connect to its store";
      pair.client = nullptr;
    }
    return pair;
  }

  // The store's status, asked until `good` is true of it; the last answer either way.
  static StoreStatus AskUntil(EventLoop& loop, const Service& store,
                              const std::function<bool(const StoreStatus&)>& good) {
    StoreStatus last;
    for (int i = 0; i < 200; ++i) {
      auto status = AskStore(&loop, store.endpoint, {}, seconds(5));
      if (status.ok()) last = *status;
      if (status.ok() && good(last)) break;
      if (!loop.Run(milliseconds(25)).ok()) break;
    }
    return last;
  }

  absl::StatusOr<RunResult> Run(EventLoop& loop, WorkerClient& client,
                                const std::vector<CountdownProblem>& problems,
                                const RunOptions& options,
                                const std::function<void(const RunProgress&)>& watch = {}) {
    return RunChains(&loop, clock_.get(), &client, *tokenizer_, problems, options,
                     [&](const RunProgress& progress) {
                       if (watch) watch(progress);
                       return absl::OkStatus();
                     });
  }

  // Runs the body with the event loop, on this thread.
  static void With(const std::function<void(EventLoop&)>& body) {
    WithEventLoop([&](EventLoop& loop) {
      body(loop);
      return 0;
    });
  }

  std::unique_ptr<Clock> clock_ = NewSteadyClock();
  std::unique_ptr<Tokenizer> tokenizer_ = *LoadTokenizer(kModel);
};

}  // namespace palimpsest::cli
