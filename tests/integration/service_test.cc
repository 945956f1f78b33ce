// SPDX-License-Identifier: Apache-2.0
// The service as its users have it: two processes, real chains of thought, and what happens when
// one of the two is killed, stopped or lied to.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "common/base/limits.h"
#include "tests/integration/service_fixture.h"

namespace palimpsest::cli {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

void ExpectAllRight(const absl::StatusOr<RunResult>& run) {
  ASSERT_TRUE(run.ok()) << run.status();
  for (const ChainResult& chain : run->chains) {
    EXPECT_EQ(chain.verdict, Verdict::kRight) << chain.problem.id << ": " << chain.error;
  }
}

void ExpectAllEnded(const absl::StatusOr<RunResult>& run) {
  ASSERT_TRUE(run.ok()) << run.status();
  for (const ChainResult& chain : run->chains) {
    EXPECT_TRUE(chain.end == ChainEnd::kStop || chain.end == ChainEnd::kLength)
        << chain.problem.id << ": " << chain.error;
  }
}

// One HTTP GET; the whole answer.
std::string Get(const Endpoint& endpoint, const std::string& path) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(endpoint.port);
  ::inet_pton(AF_INET, endpoint.host.c_str(), &address.sin_addr);
  std::string answer;
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) {
    const std::string request = "GET " + path + " HTTP/1.0\r\nHost: localhost\r\n\r\n";
    if (::send(fd, request.data(), request.size(), MSG_NOSIGNAL) > 0) {
      char buffer[4096];
      for (ssize_t n; (n = ::recv(fd, buffer, sizeof buffer, 0)) > 0;) answer.append(buffer, n);
    }
  }
  ::close(fd);
  return answer;
}

// Sends bytes to a port and waits until the other side hangs up.
void SendHostile(const Endpoint& endpoint, const std::string& bytes) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(endpoint.port);
  ::inet_pton(AF_INET, endpoint.host.c_str(), &address.sin_addr);
  ASSERT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const timeval patience{.tv_sec = 1, .tv_usec = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  char buffer[256];
  while (::recv(fd, buffer, sizeof buffer, 0) > 0) {
  }
  ::close(fd);
}

TEST_F(ServiceTest, AnswersAreRightWithTheFullCacheAndTheStoreKnowsOfThem) {
  With([&](EventLoop& loop) {
    auto [store, worker, client] = StartPair(loop);
    ASSERT_NE(client, nullptr);
    ExpectAllRight(Run(loop, *client, Problems(4), Options(Spec("full"))));
    const StoreStatus status =
        AskUntil(loop, store, [](const StoreStatus& s) { return s.sequence_count == 0; });
    EXPECT_EQ(status.sequence_count, 0u);
    EXPECT_EQ(status.sessions.size(), 1u);
    EXPECT_GT(status.counters.reports_accepted, 100u);
  });
}

TEST_F(ServiceTest, InLockstepARepeatedRunGivesIdenticalTokensAndPlans) {
  RunFigures figures[2];
  for (RunFigures& figure : figures) {
    With([&](EventLoop& loop) {
      auto [store, worker, client] = StartPair(loop, {"--lockstep", "--lockstep-deadline", "1m"});
      ASSERT_NE(client, nullptr);
      const auto run = Run(loop, *client, Problems(3), Options(Spec("thinkv", 192)));
      ExpectAllEnded(run);
      figure = FiguresOf(*run);
    });
  }
  EXPECT_GT(figures[0].plans_applied, 10u);
  EXPECT_EQ(figures[0].plans_local, 0u);
  EXPECT_EQ(figures[0].tokens_hash, figures[1].tokens_hash);
  EXPECT_EQ(figures[0].plans_hash, figures[1].plans_hash);
}

TEST_F(ServiceTest, AStoreKilledInMidChainCostsNoAnswerAndIsRegisteredWithWhenItReturns) {
  With([&](EventLoop& loop) {
    auto [store, worker, client] = StartPair(loop);
    ASSERT_NE(client, nullptr);
    bool killed = false;
    bool returned = false;
    uint64_t sequences_after = 0;
    const auto run =
        Run(loop, *client, Problems(6), Options(Spec("full")), [&](const RunProgress& progress) {
          if (!killed && progress.tokens_generated > 300) {
            killed = true;
            store.Signal(SIGKILL);
          } else if (killed && !returned && progress.tokens_generated > 900) {
            EXPECT_NE(progress.worker.store, StoreLink::kConnected);
            returned = true;
            store = StartStore(FormatEndpoint(store.endpoint));
          } else if (returned && progress.worker.store == StoreLink::kConnected &&
                     sequences_after == 0) {
            sequences_after = AskUntil(loop, store, [](const StoreStatus& s) {
                                return s.sequence_count > 0;
                              }).sequence_count;
          }
        });
    ExpectAllRight(run);
    EXPECT_TRUE(returned);
    EXPECT_GT(sequences_after, 0u) << "the worker did not register again";
  });
}

TEST_F(ServiceTest, UnderThinKvAKilledStoreLeavesTheBudgetInForce) {
  With([&](EventLoop& loop) {
    auto [store, worker, client] = StartPair(loop);
    ASSERT_NE(client, nullptr);
    bool killed = false;
    const auto run = Run(loop, *client, Problems(4), Options(Spec("thinkv", 256)),
                         [&](const RunProgress& progress) {
                           if (killed || progress.tokens_generated < 400) return;
                           killed = true;
                           store.Signal(SIGKILL);
                         });
    ExpectAllEnded(run);
    EXPECT_GT(FiguresOf(*run).plans_local, 0u);
  });
}

TEST_F(ServiceTest, AKilledWorkersSequencesAreFreedByTheShard) {
  With([&](EventLoop& loop) {
    auto [store, worker, client] = StartPair(loop);
    ASSERT_NE(client, nullptr);
    uint64_t known = 0;
    const auto run =
        Run(loop, *client, Problems(4), Options(Spec("full")), [&](const RunProgress& progress) {
          if (known > 0 || progress.tokens_generated < 100) return;
          known = AskUntil(loop, store, [](const StoreStatus& s) {
                    return s.sequence_count == 4;
                  }).sequence_count;
          worker.Signal(SIGKILL);
        });
    EXPECT_FALSE(run.ok());
    EXPECT_EQ(known, 4u);
    const StoreStatus after =
        AskUntil(loop, store, [](const StoreStatus& s) { return s.sequence_count == 0; });
    EXPECT_EQ(after.sequence_count, 0u);
    EXPECT_TRUE(after.sessions.empty());
  });
}

TEST_F(ServiceTest, AStoreStoppedForLongerThanTheHeartbeatIsDroppedAndJoinedAgain) {
  With([&](EventLoop& loop) {
    auto [store, worker, client] = StartPair(loop, {}, kQuickHeartbeat);
    ASSERT_NE(client, nullptr);
    bool stopped = false;
    bool noticed = false;
    const auto run =
        Run(loop, *client, Problems(6), Options(Spec("full")), [&](const RunProgress& progress) {
          if (!stopped && progress.tokens_generated > 200) {
            stopped = true;
            store.Signal(SIGSTOP);
          } else if (stopped && !noticed && progress.worker.store != StoreLink::kConnected) {
            noticed = true;
            store.Signal(SIGCONT);
          }
        });
    ExpectAllRight(run);
    EXPECT_TRUE(noticed) << "the worker did not notice in time";
    EXPECT_TRUE(WaitForLink(loop, *client, StoreLink::kConnected));
  });
}

TEST_F(ServiceTest, AWorkerStoppedForLongerThanTheHeartbeatIsForgottenAndRegistersAgain) {
  With([&](EventLoop& loop) {
    auto [store, worker, client] = StartPair(loop, {}, kQuickHeartbeat);
    ASSERT_NE(client, nullptr);
    bool stopped = false;
    const auto run =
        Run(loop, *client, Problems(6), Options(Spec("full")), [&](const RunProgress& progress) {
          if (stopped || progress.tokens_generated < 200) return;
          stopped = true;
          worker.Signal(SIGSTOP);
          const StoreStatus forgotten =
              AskUntil(loop, store, [](const StoreStatus& s) { return s.sessions.empty(); });
          EXPECT_TRUE(forgotten.sessions.empty());
          EXPECT_EQ(forgotten.sequence_count, 0u);
          worker.Signal(SIGCONT);
          const StoreStatus again =
              AskUntil(loop, store, [](const StoreStatus& s) { return s.sequence_count > 0; });
          EXPECT_GT(again.sequence_count, 0u);
        });
    ExpectAllRight(run);
    EXPECT_TRUE(stopped);
  });
}

TEST_F(ServiceTest, HostileBytesEndTheirOwnConnectionAndNothingElse) {
  With([&](EventLoop& loop) {
    const Service worker = StartWorker(nullptr);
    const auto client = Connect(loop, worker);
    ASSERT_NE(client, nullptr);
    bool attacked = false;
    const auto run =
        Run(loop, *client, Problems(2), Options(Spec("full")), [&](const RunProgress&) {
          if (attacked) return;
          attacked = true;
          SendHostile(worker.endpoint, std::string(4, '\xff'));
          SendHostile(worker.endpoint, std::string("\x00\x00\x00\x00\xff\xff\xff\x7f", 8));
          SendHostile(worker.endpoint, "GET / HTTP/1.1\r\n\r\n");
          SendHostile(worker.endpoint, std::string("\x00\x00\x00\x00\x02\x00\x00\x00\x01", 9));
        });
    ExpectAllRight(run);
    EXPECT_THAT(Get(worker.metrics, "/metrics"),
                HasSubstr("palimpsest_connection_rejections_total{reason=\"framing\"} 3"));
  });
}

TEST_F(ServiceTest, APoolTooSmallRefusesTypedAndRunningChainsFinish) {
  With([&](EventLoop& loop) {
    const Service worker = StartWorker(nullptr, {}, "12MiB");
    const auto client = Connect(loop, worker);
    ASSERT_NE(client, nullptr);
    bool asked = false;
    const auto run =
        Run(loop, *client, Problems(3), Options(Spec("full")), [&](const RunProgress&) {
          if (asked) return;
          asked = true;
          ChainRequest huge{
              .prompt = {101, 110}, .max_new_tokens = 16000, .policy = {.name = "full"}};
          const auto admissions = client->Generate({&huge, 1}, [](ChainEvent) {});
          ASSERT_TRUE(admissions.ok()) << admissions.status();
          EXPECT_FALSE(admissions->front().admitted);
          EXPECT_EQ(admissions->front().refusal.code, Refusal::Code::kLimit);
          EXPECT_THAT(admissions->front().refusal.text, HasSubstr("pool-bytes"));
        });
    ExpectAllRight(run);
  });
}

TEST_F(ServiceTest, OnSigtermTheWorkerIsNotReadyFinishesItsChainsAndEndsWell) {
  With([&](EventLoop& loop) {
    const Service worker = StartWorker(nullptr);
    EXPECT_THAT(Get(worker.metrics, "/readyz"), HasSubstr("200 OK"));
    EXPECT_THAT(Get(worker.metrics, "/livez"), HasSubstr("200 OK"));
    const auto client = Connect(loop, worker);
    ASSERT_NE(client, nullptr);
    std::vector<int32_t> tokens;
    bool finished = false;
    ChainRequest request{.prompt = *tokenizer_->Encode(Problems(1)[0].prompt, false),
                         .max_new_tokens = 600,
                         .policy = {.name = "full"}};
    const auto admissions = client->Generate({&request, 1}, [&](ChainEvent event) {
      tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
      finished = finished || event.finished;
    });
    ASSERT_TRUE(admissions.ok() && admissions->front().admitted);
    worker.Signal(SIGTERM);
    for (int i = 0; i < 1000 && !finished; ++i) {
      ASSERT_TRUE(loop.Run(milliseconds(20)).ok());
      if (i == 5) {
        EXPECT_THAT(Get(worker.metrics, "/readyz"), HasSubstr("503"));
      }
    }
    EXPECT_TRUE(finished);
    EXPECT_GT(tokens.size(), 100u);
    for (int i = 0; i < 500 && !worker.process->Ended().has_value(); ++i) {
      std::this_thread::sleep_for(milliseconds(10));
    }
    EXPECT_EQ(worker.process->Ended(), "ended with exit code 0");
  });
}

TEST_F(ServiceTest, AWorkerWithRandomWeightsSaysSo) {
  With([&](EventLoop& loop) {
    const Service worker = StartService(
        DECODE,
        {"--listen", "127.0.0.1:0", "--synthetic-weights", "smollm2-135m", "--device", "cpu"},
        kCalmHeartbeat);
    const auto client = Connect(loop, worker);
    ASSERT_NE(client, nullptr);
    const auto status = client->Status();
    ASSERT_TRUE(status.ok()) << status.status();
    EXPECT_TRUE(status->model.synthetic);
    EXPECT_EQ(status->model.path, "synthetic:smollm2-135m");
    EXPECT_EQ(status->model.layers, 30u);
    const std::string text = Get(worker.metrics, "/statusz");
    EXPECT_THAT(text, HasSubstr("synthetic:smollm2-135m, RANDOM WEIGHTS"));
    EXPECT_THAT(text, HasSubstr("device: cpu"));
  });
}

// What a worker says that is to end before it serves.
std::string LastWords(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--listen", "127.0.0.1:0", "--device", "cpu"});
  auto process = ChildProcess::Start(DECODE, arguments);
  EXPECT_TRUE(process.ok()) << process.status();
  for (int i = 0; i < 2000 && !(*process)->Ended().has_value(); ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  return (*process)->Obituary();
}

// The policy and budget of each chain as the worker runs it, "anticipate 64", or its refusal.
std::vector<std::string> PoliciesOf(EventLoop& loop, WorkerClient& client,
                                    std::vector<ChainRequest> requests) {
  for (ChainRequest& request : requests) {
    request.prompt = {101, 110};
    request.max_new_tokens = 2000;
    request.sampling.temperature = 1;
  }
  const auto admissions = client.Generate(requests, [](const ChainEvent&) {});
  EXPECT_TRUE(admissions.ok()) << admissions.status();
  std::vector<std::string> policies;
  size_t running = 0;
  for (const ChainAdmission& admission : *admissions) {
    policies.push_back(admission.admitted ? "" : admission.refusal.text);
    running += admission.admitted ? 1 : 0;
  }
  for (int i = 0; i < 200; ++i) {
    const auto status = client.Status();
    EXPECT_TRUE(status.ok()) << status.status();
    for (const ChainStatus& chain : status->chains) {
      for (size_t j = 0; j < policies.size(); ++j) {
        if ((*admissions)[j].admitted && (*admissions)[j].request == chain.request) {
          policies[j] = absl::StrCat(chain.policy, " ", chain.budget_tokens);
        }
      }
    }
    if (status->chains.size() == running) break;
    EXPECT_TRUE(loop.Run(milliseconds(10)).ok());
  }
  client.Cancel();
  return policies;
}

TEST_F(ServiceTest, WhatARequestLeavesOutOfItsPolicyIsTheWorkersDefault) {
  With([&](EventLoop& loop) {
    const Service worker =
        StartWorker(nullptr, {"--default-budget", "320", "--default-window", "64"});
    const auto client = Connect(loop, worker);
    ASSERT_NE(client, nullptr);
    EXPECT_THAT(PoliciesOf(loop, *client,
                           {{}, {.policy = {.budget_tokens = 64}}, {.policy = {.name = "thinkv"}}}),
                ElementsAre("anticipate 320", "anticipate 64", "thinkv 1024"));
    EXPECT_THAT(PoliciesOf(loop, *client, {{.policy = {.budget_tokens = 1}}, {}}),
                ElementsAre(HasSubstr("budget_tokens 1: expected"), "anticipate 320"));
    const auto status = client->Status();
    ASSERT_TRUE(status.ok() && status->default_policy.has_value());
    EXPECT_EQ(Described(*status->default_policy), "anticipate k=320 window=64 int4");
    EXPECT_THAT(Get(worker.metrics, "/statusz"),
                HasSubstr("default policy: anticipate k=320 window=64 int4\n"));
  });
}

TEST_F(ServiceTest, TenantsHaveDefaultsOfTheirOwn) {
  const std::string config = testing::TempDir() + "tenants.yaml";
  std::ofstream(config) << "default_budget: 320\n"
                           "tenants:\n"
                           "  acme: {policy: full}\n"
                           "  batch:\n"
                           "    budget: 96\n";
  With([&](EventLoop& loop) {
    const Service worker = StartWorker(nullptr, {"--config", config});
    const auto client = Connect(loop, worker);
    ASSERT_NE(client, nullptr);
    EXPECT_THAT(PoliciesOf(loop, *client,
                           {{.tenant = "acme"},
                            {.tenant = "batch"},
                            {.tenant = "batch", .policy = {.name = "thinkv"}},
                            {.tenant = "someone"},
                            {}}),
                ElementsAre(absl::StrCat("full ", limits::kPositionMax), "anticipate 96",
                            "thinkv 1024", "anticipate 320", "anticipate 320"));
  });
  std::ofstream(config) << "tenants: {acme: {policy: rkv}}\n";
  EXPECT_THAT(LastWords({"--model", kModel, "--config", config}),
              HasSubstr("tenants: acme: policy: 'rkv' is not served; allowed: anticipate"));
  std::ofstream(config) << "tenants:\n  acme: {budget: lots}\n";
  EXPECT_THAT(LastWords({"--model", kModel, "--config", config}),
              HasSubstr("tenants.yaml:2:3: tenants: acme: budget: 'lots' is not a whole number"));
}

TEST_F(ServiceTest, AWorkerWithoutACodebookFallsBackOnThinkvAndADefaultIsServed) {
  With([&](EventLoop& loop) {
    const Service worker =
        StartService(DECODE,
                     {"--listen", "127.0.0.1:0", "--model", "tests/decode/model/data/qwen2",
                      "--device", "cpu", "--pool-bytes", "16MiB"},
                     kCalmHeartbeat);
    const auto client = Connect(loop, worker);
    ASSERT_NE(client, nullptr);
    EXPECT_EQ(client->Status()->default_policy->name, "thinkv");
  });
  EXPECT_THAT(LastWords({"--model", kModel, "--default-policy", "rkv"}),
              HasSubstr("default_policy: policy: 'rkv' is not served; allowed: anticipate"));
}

TEST_F(ServiceTest, AWorkerRotatesKeysByItselfAndAnswersAreRightEitherWay) {
  for (const char* wanted : {"auto", "off"}) {
    With([&](EventLoop& loop) {
      const Service worker = StartWorker(nullptr, {"--rotate-keys", wanted});
      const auto client = Connect(loop, worker);
      ASSERT_NE(client, nullptr);
      const bool rotated = std::string(wanted) == "auto";
      EXPECT_EQ(client->first_status().keys_rotated, rotated);
      EXPECT_THAT(Get(worker.metrics, "/statusz"),
                  HasSubstr(rotated ? "keys: rotated\n" : "keys: as they are\n"));
      ExpectAllRight(Run(loop, *client, Problems(1), Options(Spec("full"))));
      ExpectAllRight(Run(loop, *client, Problems(1), Options(Spec("anticipate", 192))));
    });
  }
  EXPECT_THAT(LastWords({"--model", kModel, "--rotate-keys", "yes"}),
              HasSubstr("'yes' is not a choice; allowed: auto, on, off"));
}

TEST_F(ServiceTest, AWorkerRefusesACodebookThatIsNotItsModels) {
  const std::string codebook = std::string(kModel) + "/queries.safetensors";
  EXPECT_THAT(
      LastWords({"--model", "tests/decode/model/data/qwen2", "--codebook", codebook}),
      AllOf(HasSubstr("codebook: "), HasSubstr(codebook), HasSubstr("made for another model")));
  EXPECT_THAT(LastWords({"--model", kModel, "--codebook", "/nonexistent"}),
              HasSubstr("codebook: /nonexistent"));
  EXPECT_THAT(LastWords({"--synthetic-weights", "smollm2-135m", "--codebook", codebook}),
              HasSubstr("codebook: random weights have none"));
}

TEST_F(ServiceTest, BothProcessesShowTheirMetrics) {
  With([&](EventLoop& loop) {
    auto [store, worker, client] = StartPair(loop);
    ASSERT_NE(client, nullptr);
    ExpectAllEnded(Run(loop, *client, Problems(1), Options(Spec("thinkv", 128))));
    const std::string of_worker = Get(worker.metrics, "/metrics");
    for (const char* name : {"palimpsest_build_info", "palimpsest_pool_capacity_bytes",
                             "palimpsest_decode_tokens_total{phase=\"decode\"}",
                             "palimpsest_peer_up{peer=\"store\"} 1",
                             "palimpsest_kernel_duration_seconds_bucket{kernel=\"attend\""}) {
      EXPECT_THAT(of_worker, HasSubstr(name));
    }
    const std::string of_store = Get(store.metrics, "/metrics");
    for (const char* name :
         {"palimpsest_build_info", "palimpsest_stats_batches_total{result=\"ok\"}",
          "palimpsest_thoughts_classified_total"}) {
      EXPECT_THAT(of_store, HasSubstr(name));
    }
  });
}

}  // namespace
}  // namespace palimpsest::cli
