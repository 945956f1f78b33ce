// SPDX-License-Identifier: Apache-2.0
// The store client against a real server in this process, over loopback TCP.
#include "services/decode/store_client/store_client.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "services/kvstore/server.h"
#include "tests/kvstore/client_harness.h"

namespace palimpsest {
namespace {

using ::testing::ElementsAre;

constexpr milliseconds kLong{10000};

class StoreClientTest : public ::testing::Test {
 protected:
  void StartServer(uint64_t epoch = 1, StoreEngineOptions engine = {}) {
    StoreServerOptions options;
    options.listen = "127.0.0.1:" + std::to_string(port_);
    options.engine = engine;
    options.engine.epoch = epoch;
    options.engine.heartbeat = milliseconds(100);
    auto server = StartStoreServer(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    port_ = server_->port();
  }

  void StartClient() { client_ = NewStoreClient(ClientOptions(port_, &observer_)); }

  StoreStatus Status() {
    const auto status = AskStatus(port_, {.sequences_max = 10});
    EXPECT_TRUE(status.ok()) << status.status();
    return status.ok() ? *status : StoreStatus{};
  }

  uint16_t port_ = 0;
  CountingObserver observer_;
  std::unique_ptr<StoreServer> server_;
  std::unique_ptr<ControlPlane> client_;
};

TEST_F(StoreClientTest, LockstepAnswersEqualThePolicyRunLocally) {
  StartServer();
  StartClient();
  ASSERT_TRUE(WaitConnected(*client_));
  std::vector<std::unique_ptr<PlayedSequence>> sequences;
  for (SequenceId id = 1; id <= 8; ++id) {
    sequences.push_back(std::make_unique<PlayedSequence>(*client_, id));
    sequences.back()->Register();
  }
  for (int i = 0; i < 100; ++i) {
    for (auto& sequence : sequences) ASSERT_TRUE(sequence->Step(kLong));
  }
  EXPECT_TRUE(client_->NeedsSnapshot().empty());
  EXPECT_TRUE(client_->Poll().empty());
  const StoreStatus status = Status();
  EXPECT_EQ(status.sequence_count, 8u);
  EXPECT_EQ(status.counters.reports_accepted, 800u);
  EXPECT_EQ(status.sessions.size(), 1u);
  EXPECT_GT(status.plan_lag.count, 0u);
}

TEST_F(StoreClientTest, ARestartedStoreGetsSnapshotsAndGivesTheSamePlans) {
  StartServer(1);
  StartClient();
  ASSERT_TRUE(WaitConnected(*client_));
  PlayedSequence sequence(*client_, 1);
  sequence.Register();
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(sequence.Step(kLong));
  for (uint64_t epoch = 2; epoch <= 4; ++epoch) {
    server_ = nullptr;
    ASSERT_TRUE(WaitFor([&] { return client_->state() == StoreState::kConnecting; }, kLong));
    for (int i = 0; i < 10; ++i) EXPECT_FALSE(sequence.Step(milliseconds(50)));  // at once
    StartServer(epoch);
    ASSERT_TRUE(WaitConnected(*client_));
    EXPECT_THAT(client_->NeedsSnapshot(), ElementsAre(1));
    sequence.Register();
    const uint64_t plan_before = sequence.last_plan();
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(sequence.Step(kLong));
    EXPECT_GT(sequence.last_plan(), plan_before);  // numbers rise over the restart
  }
}

TEST_F(StoreClientTest, AStoreWithAnOlderEpochIsNotTakenBack) {
  StartServer(5);
  StartClient();
  ASSERT_TRUE(WaitConnected(*client_));
  server_ = nullptr;
  ASSERT_TRUE(WaitFor([&] { return client_->state() == StoreState::kConnecting; }, kLong));
  StartServer(4);
  EXPECT_FALSE(WaitConnected(*client_, milliseconds(700)));
  EXPECT_THAT(observer_.why(), ::testing::HasSubstr("stale_epoch"));
  server_ = nullptr;
  StartServer(6);
  EXPECT_TRUE(WaitConnected(*client_));
}

TEST_F(StoreClientTest, FinishingASequenceFreesItInTheStore) {
  StartServer();
  StartClient();
  ASSERT_TRUE(WaitConnected(*client_));
  PlayedSequence first(*client_, 1);
  PlayedSequence second(*client_, 2);
  first.Register();
  second.Register();
  ASSERT_TRUE(first.Step(kLong));
  ASSERT_TRUE(second.Step(kLong));
  client_->Finish(1);
  EXPECT_TRUE(WaitFor([&] { return Status().sequence_count == 1; }, kLong));
  EXPECT_TRUE(second.Step(kLong));
  client_ = nullptr;
  EXPECT_TRUE(WaitFor([&] { return Status().sequence_count == 0; }, kLong));
  EXPECT_TRUE(Status().sessions.empty());
}

TEST_F(StoreClientTest, AFullQueueDropsCountsAndAsksForASnapshot) {
  StartServer();
  StoreClientOptions options = ClientOptions(port_, &observer_);
  options.queue_items_max = 4;
  client_ = NewStoreClient(options);
  ASSERT_TRUE(WaitConnected(*client_));
  PlayedSequence sequence(*client_, 1);
  sequence.Register();
  ASSERT_TRUE(WaitFor(
      [&] {
        for (int i = 0; i < 100; ++i) sequence.StepAsync();
        return observer_.dropped(StoreClientDrop::kReportQueueFull) > 0;
      },
      kLong));
  std::vector<SequenceId> lost;
  ASSERT_TRUE(WaitFor([&] { return !(lost = client_->NeedsSnapshot()).empty(); }, kLong));
  EXPECT_THAT(lost, ElementsAre(1));
  client_->Poll();
  sequence.Register();
  EXPECT_TRUE(WaitFor(
      [&] {
        if (!client_->NeedsSnapshot().empty()) sequence.Register();  // of what was still under way
        return sequence.Step(milliseconds(1000));
      },
      kLong));
}

TEST_F(StoreClientTest, PlansNobodyPollsAreBoundedAndTheSequenceIsRegisteredAgain) {
  StartServer();
  StoreClientOptions options = ClientOptions(port_, &observer_);
  options.mailbox_plans_max = 3;
  client_ = NewStoreClient(options);
  ASSERT_TRUE(WaitConnected(*client_));
  PlayedSequence sequence(*client_, 1);
  sequence.Register();
  ASSERT_TRUE(WaitFor(
      [&] {
        sequence.StepAsync();
        return observer_.dropped(StoreClientDrop::kPlanMailboxFull) > 0;
      },
      kLong));
  EXPECT_EQ(client_->Poll().size(), 3u);
  EXPECT_TRUE(WaitFor([&] { return !client_->NeedsSnapshot().empty(); }, kLong));
}

TEST_F(StoreClientTest, ASequenceRegisteredBeforeTheStoreIsThereComesUpLater) {
  StartServer();
  server_ = nullptr;  // the port is free now
  StartClient();
  PlayedSequence sequence(*client_, 1);
  sequence.Register();
  EXPECT_FALSE(sequence.Step(milliseconds(2000)));
  EXPECT_TRUE(client_->NeedsSnapshot().empty());  // not before somebody can take it
  StartServer();
  ASSERT_TRUE(WaitConnected(*client_));
  EXPECT_THAT(client_->NeedsSnapshot(), ElementsAre(1));
  sequence.Register();
  EXPECT_TRUE(sequence.Step(kLong));
}

// A store that takes the connection and never says a word.
class SilentListener {
 public:
  SilentListener() : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    KV_CHECK(::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    KV_CHECK(::listen(fd_, 16) == 0);
    socklen_t size = sizeof address;
    KV_CHECK(::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port_ = ntohs(address.sin_port);
  }
  ~SilentListener() { ::close(fd_); }
  uint16_t port() const { return port_; }

 private:
  const int fd_;
  uint16_t port_ = 0;
};

TEST_F(StoreClientTest, ASilentStoreNeverBlocksTheEngineNorTheShutdown) {
  SilentListener silent;
  port_ = silent.port();
  StartClient();
  PlayedSequence sequence(*client_, 1);
  sequence.Register();
  std::vector<std::chrono::nanoseconds> calls;
  for (int i = 0; i < 5000; ++i) calls.push_back(sequence.StepAsync());
  std::sort(calls.begin(), calls.end());
  std::printf("engine's calls beside a silent store: median %.1f us, worst %.1f us\n",
              static_cast<double>(calls[2500].count()) / 1000,
              static_cast<double>(calls.back().count()) / 1000);
  EXPECT_LT(calls[2500], milliseconds(1));
  EXPECT_LT(calls.back(), milliseconds(500));  // it includes being scheduled out
  const auto before = std::chrono::steady_clock::now();
  client_ = nullptr;
  EXPECT_LT(std::chrono::steady_clock::now() - before, milliseconds(2000));
}

TEST_F(StoreClientTest, ACredentialThatIsWrongIsRefusedAndTriedAgain) {
  StoreEngineOptions engine;
  engine.credential = "sesame";
  StartServer(1, engine);
  StartClient();
  EXPECT_FALSE(WaitConnected(*client_, milliseconds(300)));
  EXPECT_THAT(observer_.why(), ::testing::HasSubstr("unauthorized"));
  client_ = nullptr;
  StoreClientOptions options = ClientOptions(port_, &observer_);
  options.credential = "sesame";
  client_ = NewStoreClient(options);
  EXPECT_TRUE(WaitConnected(*client_));
  EXPECT_EQ(AskStatus(port_).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(StoreClientTest, HeartbeatsKeepAnIdleSessionOpen) {
  StartServer();
  client_ = NewStoreClient(ClientOptions(port_, &observer_, milliseconds(200)));
  ASSERT_TRUE(WaitConnected(*client_));
  std::this_thread::sleep_for(milliseconds(1000));
  EXPECT_EQ(observer_.connections, 1u);
  EXPECT_GE(observer_.heartbeats, 3u);
}

TEST_F(StoreClientTest, ADrainingStoreSaysGoodbyeAndTakesNobody) {
  StartServer();
  StartClient();
  ASSERT_TRUE(WaitConnected(*client_));
  PlayedSequence sequence(*client_, 1);
  sequence.Register();
  ASSERT_TRUE(sequence.Step(kLong));
  server_->Drain(milliseconds(200));
  ASSERT_TRUE(WaitFor([&] { return server_->drained(); }, kLong));
  EXPECT_EQ(client_->state(), StoreState::kConnecting);
  EXPECT_THAT(observer_.why(), ::testing::HasSubstr("draining"));
}

TEST_F(StoreClientTest, ManyWorkersComeBackAfterARestart) {
  StartServer(1);
  std::vector<std::unique_ptr<ControlPlane>> clients;
  for (int i = 0; i < 40; ++i) {
    clients.push_back(NewStoreClient(ClientOptions(port_, &observer_)));
  }
  for (auto& client : clients) ASSERT_TRUE(WaitConnected(*client));
  server_ = nullptr;
  StartServer(2);
  for (auto& client : clients) ASSERT_TRUE(WaitConnected(*client));
  EXPECT_EQ(Status().sessions.size(), 40u);
}

TEST_F(StoreClientTest, ThroughputAndLagOverLoopback) {
  StartServer();
  StartClient();
  ASSERT_TRUE(WaitConnected(*client_));
  PlayedSequence sequence(*client_, 1);
  sequence.Register();
  std::vector<double> lags_us;
  for (int i = 0; i < 500; ++i) {
    const auto before = std::chrono::steady_clock::now();
    ASSERT_TRUE(sequence.Step(kLong));
    lags_us.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - before)
            .count());
  }
  std::sort(lags_us.begin(), lags_us.end());
  std::printf("{\"bench\":\"plan_round_trip\",\"p50_us\":%.1f,\"p99_us\":%.1f}\n", lags_us[250],
              lags_us[495]);
}

}  // namespace
}  // namespace palimpsest
