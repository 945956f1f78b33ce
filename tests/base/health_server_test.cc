// SPDX-License-Identifier: Apache-2.0
#include "common/base/health_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "common/base/metrics.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class FakeClock final : public Clock {
 public:
  Time Now() const override { return Time(std::chrono::nanoseconds(now_.load())); }
  void Advance(std::chrono::nanoseconds by) { now_ += by.count(); }

 private:
  std::atomic<int64_t> now_ = 1'000'000'000;
};

int Connected(uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const timeval patience = {.tv_sec = 10, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  return fd;
}

// Everything the server says to `request`, until it closes.
std::string Raw(uint16_t port, const std::string& request) {
  const int fd = Connected(port);
  (void)!send(fd, request.data(), request.size(), MSG_NOSIGNAL);
  std::string answer;
  char buffer[4096];
  for (ssize_t n = 0; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
    answer.append(buffer, static_cast<size_t>(n));
  }
  close(fd);
  return answer;
}

class HealthServerTest : public ::testing::Test {
 protected:
  HealthServerTest() : metrics_(NewStoreMetrics(&registry_)) {
    auto server = NewHealthServer({.clock = &clock_, .registry = &registry_, .statusz = [this] {
                                     if (status_fails_) throw std::runtime_error("no status");
                                     return std::string("3 sequences\n");
                                   }});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::string Get(const std::string& path, const std::string& method = "GET") {
    return Raw(server_->address().port, method + " " + path + " HTTP/1.1\r\nHost: x\r\n\r\n");
  }

  FakeClock clock_;
  prometheus::Registry registry_;
  std::unique_ptr<StoreMetrics> metrics_;
  std::atomic<bool> status_fails_ = false;
  std::unique_ptr<HealthServer> server_;
};

TEST_F(HealthServerTest, ServesMetrics) {
  metrics_->stats_gaps_total.Increment(7);
  const std::string answer = Get("/metrics");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"));
  EXPECT_THAT(answer, HasSubstr("\npalimpsest_stats_gaps_total 7\n"));
}

TEST_F(HealthServerTest, IsLiveWhileTheLoopTurns) {
  EXPECT_THAT(Get("/livez"), StartsWith("HTTP/1.1 200"));
  clock_.Advance(std::chrono::seconds(30));
  EXPECT_THAT(Get("/livez"), StartsWith("HTTP/1.1 200"));
  clock_.Advance(std::chrono::seconds(1));
  EXPECT_THAT(Get("/livez"), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(Get("/livez"), HasSubstr("has not turned for 31 s; allowed: 30s\n"));
  server_->Touch();
  EXPECT_THAT(Get("/livez"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HealthServerTest, ReadinessIsTheOwnersWordWithItsReason) {
  EXPECT_THAT(Get("/readyz"), HasSubstr("not ready: starting\n"));
  server_->SetReady();
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 200"));
  server_->SetNotReady("draining\r\nX-Forged: 1");
  const std::string answer = Get("/readyz");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(answer, HasSubstr("not ready: draining\\r\\nX-Forged: 1\n"));
  server_->SetNotReady("");
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 503")) << "no reason is not readiness";
  EXPECT_THAT(Get("/livez"), StartsWith("HTTP/1.1 200")) << "draining is alive";
}

TEST_F(HealthServerTest, StartupAndStatusPages) {
  EXPECT_THAT(Get("/startupz"), StartsWith("HTTP/1.1 503"));
  server_->SetStarted();
  EXPECT_THAT(Get("/startupz"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get("/statusz"), HasSubstr("\r\n\r\n3 sequences\n"));
  status_fails_ = true;
  EXPECT_THAT(Get("/statusz"), StartsWith("HTTP/1.1 500"));
}

TEST_F(HealthServerTest, TheRestIsRefused) {
  for (const char* path : {"/", "/metrics/", "/../etc/passwd", "/%2e%2e/etc/passwd", "/livez2"}) {
    EXPECT_THAT(Get(path), ::testing::AnyOf(StartsWith("HTTP/1.1 404"), StartsWith("HTTP/1.1 400")))
        << path;
  }
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS"}) {
    EXPECT_THAT(Get("/livez", method), StartsWith("HTTP/1.1 405")) << method;
  }
  EXPECT_THAT(Get("/livez", "BREW"), ::testing::Not(StartsWith("HTTP/1.1 200")));
  EXPECT_THAT(Get("/metrics?x=1"), StartsWith("HTTP/1.1 200"));
  const std::string head = Get("/livez", "HEAD");
  EXPECT_THAT(head, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(head, ::testing::EndsWith("\r\n\r\n"));
}

TEST_F(HealthServerTest, OversizedAndMalformedRequestsAreRefusedAndServiceGoesOn) {
  const uint16_t port = server_->address().port;
  const std::string big(64 << 10, 'a');
  for (const std::string& request :
       {"GET /" + big + " HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nX: " + big + "\r\n\r\n",
        std::string("\0\xFF\xFF\xFF\r\n\r\n", 8), std::string("nonsense\r\n\r\n")}) {
    EXPECT_THAT(Raw(port, request), ::testing::Not(HasSubstr("HTTP/1.1 200")));
  }
  EXPECT_THAT(Get("/livez"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HealthServerTest, SilentConnectionsDoNotBlockOthersForLong) {
  std::vector<int> silent;
  for (int i = 0; i < 4; ++i) silent.push_back(Connected(server_->address().port));
  EXPECT_THAT(Get("/livez"), StartsWith("HTTP/1.1 200")) << "after the time-out of the silent ones";
  for (const int fd : silent) close(fd);
}

TEST_F(HealthServerTest, AnswersManyAtOnceWhileTheOwnerChangesItsMind) {
  std::vector<std::thread> clients;
  std::atomic<int> answered = 0;
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([this, &answered] {
      for (int i = 0; i < 25; ++i) answered += Get("/readyz").empty() ? 0 : 1;
    });
  }
  for (int i = 0; i < 1000; ++i) {
    server_->Touch();
    i % 2 == 0 ? server_->SetReady() : server_->SetNotReady("flapping");
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(answered, 100);
}

TEST_F(HealthServerTest, APortThatIsTakenIsNamed) {
  const auto second =
      NewHealthServer({.listen = server_->address(), .clock = &clock_, .registry = &registry_});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(second.status().message(), "cannot listen on " + FormatEndpoint(server_->address()) +
                                           " for metrics and probes: Address already in use");
}

TEST_F(HealthServerTest, AddressesThatAreNotOursAreNamed) {
  const auto refused = [this](const char* host) {
    return NewHealthServer(
               {.listen = {.host = host, .port = 1}, .clock = &clock_, .registry = &registry_})
        .status();
  };
  EXPECT_EQ(refused("192.0.2.1").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused("192.0.2.1").message()), HasSubstr("192.0.2.1:1"));
  EXPECT_THAT(std::string(refused("example.org").message()), HasSubstr("must be an IP address"));
}

TEST_F(HealthServerTest, StopsAndItsPortCanBeUsedAgain) {
  const Endpoint address = server_->address();
  server_.reset();
  const auto again = NewHealthServer({.listen = address, .clock = &clock_, .registry = &registry_});
  EXPECT_TRUE(again.ok()) << again.status();
}

}  // namespace
}  // namespace palimpsest
