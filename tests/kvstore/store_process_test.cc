// SPDX-License-Identifier: Apache-2.0
// A real palimpsest-kvstore: killed, stopped, told to end, and fed hostile bytes.
#include "tests/kvstore/store_process.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdio>
#include <random>

#include "tests/kvstore/client_harness.h"

namespace palimpsest {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr milliseconds kLong{10000};

std::vector<std::string> Arguments(uint16_t port, const std::string& epoch) {
  return {"--listen",         "127.0.0.1:" + std::to_string(port),
          "--metrics-listen", "127.0.0.1:0",
          "--heartbeat",      "100ms",
          "--epoch",          epoch,
          "--log-level",      "error"};
}

// A bare TCP connection that says what it likes.
class RawConnection {
 public:
  explicit RawConnection(uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    const timeval timeout = {.tv_sec = 8, .tv_usec = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  }
  ~RawConnection() { ::close(fd_); }
  RawConnection(const RawConnection&) = delete;
  RawConnection& operator=(const RawConnection&) = delete;

  bool Send(const std::string& bytes) {
    return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  // Whether the other side hangs up within some seconds, whatever it says before.
  bool HungUp() {
    char buffer[4096];
    for (;;) {
      const ssize_t count = ::recv(fd_, buffer, sizeof buffer, 0);
      if (count == 0) return true;
      if (count < 0) return errno == ECONNRESET;
    }
  }
  std::string ReadAll() {
    std::string text;
    char buffer[4096];
    for (ssize_t count; (count = ::recv(fd_, buffer, sizeof buffer, 0)) > 0;) {
      text.append(buffer, static_cast<size_t>(count));
    }
    return text;
  }
  bool connected() const { return connected_; }

 private:
  const int fd_;
  bool connected_ = false;
};

std::string Get(uint16_t port, const std::string& path) {
  RawConnection http(port);
  http.Send("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  return http.ReadAll();
}

class StoreProcessTest : public ::testing::Test {
 protected:
  void Start(const std::string& epoch = "1", uint16_t port = 0,
             milliseconds heartbeat = milliseconds(1000)) {
    process_ = std::make_unique<StoreProcess>(Arguments(port, epoch));
    ASSERT_NE(process_->port(), 0);
    if (client_ != nullptr) return;
    client_ = NewStoreClient(ClientOptions(process_->port(), &observer_, heartbeat));
  }

  absl::StatusOr<StoreStatus> Status() { return AskStatus(process_->port()); }

  std::unique_ptr<StoreProcess> process_;
  CountingObserver observer_;
  std::unique_ptr<ControlPlane> client_;
};

TEST_F(StoreProcessTest, AKilledStoreIsNoticedAndItsSuccessorGetsSnapshots) {
  Start("1");
  ASSERT_TRUE(WaitConnected(*client_));
  PlayedSequence sequence(*client_, 1);
  sequence.Register();
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(sequence.Step(kLong));
  const uint16_t port = process_->port();
  process_->Signal(SIGKILL);
  EXPECT_EQ(process_->Wait(kLong), 128 + SIGKILL);
  ASSERT_TRUE(WaitFor([&] { return client_->state() == StoreState::kConnecting; }, kLong));
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(sequence.Step(milliseconds(50)));
  Start("2", port);
  ASSERT_TRUE(WaitConnected(*client_));
  EXPECT_THAT(client_->NeedsSnapshot(), ElementsAre(1));
  sequence.Register();
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(sequence.Step(kLong));
}

TEST_F(StoreProcessTest, AStoppedStoreIsDroppedAfterThreeHeartbeatsAndTakenBackLater) {
  Start("1", 0, milliseconds(200));
  ASSERT_TRUE(WaitConnected(*client_));
  PlayedSequence sequence(*client_, 1);
  sequence.Register();
  ASSERT_TRUE(sequence.Step(kLong));
  const auto stopped_at = std::chrono::steady_clock::now();
  process_->Signal(SIGSTOP);
  // The engine goes on at its own pace meanwhile: into the queue, then past it.
  std::vector<std::chrono::nanoseconds> calls;
  while (calls.size() < 3000) calls.push_back(sequence.StepAsync());
  std::sort(calls.begin(), calls.end());
  std::printf("engine's calls beside a stopped store: median %.1f us, worst %.1f us\n",
              static_cast<double>(calls[1500].count()) / 1000,
              static_cast<double>(calls.back().count()) / 1000);
  EXPECT_LT(calls[1500], milliseconds(1));
  ASSERT_TRUE(WaitFor([&] { return client_->state() == StoreState::kConnecting; }, kLong));
  const auto noticed = std::chrono::steady_clock::now() - stopped_at;
  EXPECT_GE(noticed, milliseconds(400));
  EXPECT_LT(noticed, milliseconds(3000));
  EXPECT_THAT(observer_.why(), HasSubstr("three heartbeats"));
  EXPECT_FALSE(sequence.Step(milliseconds(50)));
  std::this_thread::sleep_for(milliseconds(500));
  process_->Signal(SIGCONT);
  ASSERT_TRUE(WaitConnected(*client_));
  ASSERT_TRUE(WaitFor(
      [&] {
        if (!client_->NeedsSnapshot().empty()) sequence.Register();
        return sequence.Step(milliseconds(1000));
      },
      kLong));
  // Of the session before the stop nothing is left.
  ASSERT_TRUE(WaitFor([&] { return Status()->sessions.size() == 1; }, kLong));
  EXPECT_EQ(Status()->sequence_count, 1u);
}

TEST_F(StoreProcessTest, SigtermDrainsAndEndsInOrder) {
  Start();
  ASSERT_TRUE(WaitConnected(*client_));
  PlayedSequence sequence(*client_, 1);
  sequence.Register();
  ASSERT_TRUE(sequence.Step(kLong));
  EXPECT_THAT(Get(process_->metrics_port(), "/readyz"), HasSubstr("200"));
  process_->Signal(SIGTERM);
  // The running sequence is served on while the process waits for it.
  ASSERT_TRUE(WaitFor(
      [&] { return Get(process_->metrics_port(), "/readyz").find("503") != std::string::npos; },
      kLong));
  EXPECT_TRUE(sequence.Step(kLong));
  client_->Finish(1);
  EXPECT_EQ(process_->Wait(kLong), 0);
}

TEST_F(StoreProcessTest, ASecondSigtermEndsAtOnce) {
  Start();
  ASSERT_TRUE(WaitConnected(*client_));
  PlayedSequence sequence(*client_, 1);
  sequence.Register();
  ASSERT_TRUE(sequence.Step(kLong));
  process_->Signal(SIGTERM);
  std::this_thread::sleep_for(milliseconds(200));
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(milliseconds(3000)), 1);
}

TEST_F(StoreProcessTest, HostileBytesEndTheirConnectionAndNobodyElses) {
  Start();
  ASSERT_TRUE(WaitConnected(*client_));
  PlayedSequence sequence(*client_, 1);
  sequence.Register();
  ASSERT_TRUE(sequence.Step(kLong));
  std::vector<std::string> hostile = {
      std::string(64, '\xff'),                                     // segment overflow
      std::string("\xff\x01\x00\x00", 4) + std::string(60, '\0'),  // 512 segments
      std::string("\x00\x00\x00\x00\xff\xff\xff\xff", 8),          // 32 GiB
      "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
  };
  std::mt19937_64 random(1);
  for (int i = 0; i < 200; ++i) {
    // A plausible header, then noise for Cap'n Proto and the RPC layer to choke on.
    const uint32_t words = 1 + random() % 64;
    std::string message(8 + words * 8, '\0');
    message[4] = static_cast<char>(words);
    for (size_t at = 8; at < message.size(); ++at) {
      message[at] = static_cast<char>(random() % 4 == 0 ? random() : 0);
    }
    hostile.push_back(message);
  }
  for (size_t i = 0; i < hostile.size(); ++i) {
    RawConnection raw(process_->port());
    ASSERT_TRUE(raw.connected());
    raw.Send(hostile[i]);
    if (i < 3) {
      EXPECT_TRUE(raw.HungUp()) << i;
    }
    if (i % 20 == 0) {
      ASSERT_TRUE(sequence.Step(kLong)) << i;
    }
  }
  EXPECT_EQ(process_->Wait(milliseconds(50)), -1);  // it lives
  EXPECT_EQ(observer_.connections, 1u);
  EXPECT_THAT(Get(process_->metrics_port(), "/metrics"),
              HasSubstr("palimpsest_connection_rejections_total{reason=\"framing\"}"));
}

TEST_F(StoreProcessTest, ATrickleBehindALargeClaimCostsNoMemoryAndIsCutOff) {
  Start();
  ASSERT_TRUE(WaitConnected(*client_));
  const long before_kib = process_->ResidentKib();
  std::vector<std::unique_ptr<RawConnection>> slow;
  for (int i = 0; i < 100; ++i) {
    slow.push_back(std::make_unique<RawConnection>(process_->port()));
    // The largest message allowed, of which next to nothing comes.
    slow.back()->Send(std::string("\x00\x00\x00\x00\x00\x00\x08\x00", 8) + "slow");
  }
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_LT(process_->ResidentKib() - before_kib, 100 * 1024);
  PlayedSequence sequence(*client_, 1);
  sequence.Register();
  EXPECT_TRUE(sequence.Step(kLong));
  EXPECT_TRUE(slow.front()->HungUp());  // after the handshake's 5 s
  EXPECT_TRUE(sequence.Step(kLong));
}

TEST_F(StoreProcessTest, ConnectionsBeyondTheBoundAreClosedAtOnce) {
  Start();
  ASSERT_TRUE(WaitConnected(*client_));
  std::vector<std::unique_ptr<RawConnection>> idle;
  for (int i = 0; i < 300; ++i) idle.push_back(std::make_unique<RawConnection>(process_->port()));
  EXPECT_TRUE(idle.back()->HungUp());
  PlayedSequence sequence(*client_, 1);
  sequence.Register();
  EXPECT_TRUE(sequence.Step(kLong));
}

TEST_F(StoreProcessTest, ABadFlagIsAUsageErrorAndATakenPortAFailure) {
  Start();
  StoreProcess bad({"--sequences-max", "0"});
  EXPECT_EQ(bad.Wait(kLong), 2);
  StoreProcess taken(Arguments(process_->port(), "1"));
  EXPECT_EQ(taken.Wait(kLong), 1);
}

}  // namespace
}  // namespace palimpsest
