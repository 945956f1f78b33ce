// SPDX-License-Identifier: Apache-2.0
// Built on civetweb's C interface. Nothing may throw through it: it is C.
#include "common/base/health_server.h"

#include <arpa/inet.h>
#include <civetweb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/metrics.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"

namespace palimpsest {
namespace {

constexpr char kThreads[] = "4";
constexpr char kTimeoutMs[] = "3000";        // a peer that sends or reads slowly loses its thread
constexpr char kRequestBytesMax[] = "4096";  // request line and headers
constexpr char kQueue[] = "16";

struct Reply {
  int code = 200;
  std::string body;
  const char* type = "text/plain; charset=utf-8";
};

const char* Reason(int code) {
  switch (code) {
    case 200:
      return "OK";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 503:
      return "Service Unavailable";
    default:
      return "Internal Server Error";
  }
}

struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t length = 0;  // 0: not an IP address
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

SocketAddress ToSocketAddress(const Endpoint& endpoint) {
  SocketAddress address;
  auto* const v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* const v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (inet_pton(AF_INET, endpoint.host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(endpoint.port);
    address.length = sizeof(*v4);
  } else if (inet_pton(AF_INET6, endpoint.host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(endpoint.port);
    address.length = sizeof(*v6);
  }
  return address;
}

// civetweb only says that it failed, so the address is tried first. The port may be lost between
// the two; then civetweb's own words must do.
absl::Status CheckAddress(const Endpoint& endpoint) {
  const SocketAddress address = ToSocketAddress(endpoint);
  if (address.length == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("health address ", Quoted(FormatEndpoint(endpoint)),
                     ": the host must be an IP address, for example 127.0.0.1"));
  }
  const int fd = socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int error = fd < 0 ? errno : 0;
  if (fd >= 0) {
    const int reuse = 1;  // as civetweb does: a port in TIME_WAIT is free
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
    if (bind(fd, address.get(), address.length) != 0) error = errno;
    close(fd);
  }
  if (error == 0) return absl::OkStatus();
  const std::string message = absl::StrCat("cannot listen on ", FormatEndpoint(endpoint),
                                           " for metrics and probes: ", strerror(error));
  if (error == EADDRNOTAVAIL) return absl::InvalidArgumentError(message);
  return absl::UnavailableError(message);
}

// Connects and hangs up.
void Knock(const Endpoint& endpoint) {
  const SocketAddress address = ToSocketAddress(endpoint);
  const int fd = socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  (void)connect(fd, address.get(), address.length);
  close(fd);
}

class CivetHealthServer final : public HealthServer {
 public:
  explicit CivetHealthServer(const HealthOptions& options)
      : options_(options), touched_(options.clock->Now().time_since_epoch().count()) {}

  ~CivetHealthServer() override {
    if (context_ != nullptr) Stop();
    if (initialized_) mg_exit_library();
  }

  absl::Status Start() {
    mg_init_library(0);
    initialized_ = true;
    const std::string listen = FormatEndpoint(options_.listen);
    const std::array<const char*, 15> settings = {"listening_ports",
                                                  listen.c_str(),
                                                  "num_threads",
                                                  kThreads,
                                                  "request_timeout_ms",
                                                  kTimeoutMs,
                                                  "max_request_size",
                                                  kRequestBytesMax,
                                                  "enable_keep_alive",
                                                  "no",
                                                  "connection_queue",
                                                  kQueue,
                                                  "listen_backlog",
                                                  kQueue,
                                                  nullptr};
    mg_callbacks callbacks = {};
    callbacks.begin_request = &OnRequest;
    callbacks.log_message = [](const mg_connection*, const char*) { return 1; };  // not to a file
    mg_init_data init = {.callbacks = &callbacks,
                         .user_data = this,
                         .configuration_options = const_cast<const char**>(settings.data())};
    std::array<char, 256> text = {};
    unsigned code = 0;
    mg_error_data error = {.code = &code, .text = text.data(), .text_buffer_size = text.size()};
    context_ = mg_start2(&init, &error);
    if (context_ == nullptr) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", listen, " for metrics and probes: ", text.data()));
    }
    mg_server_port port = {};
    KV_CHECK(mg_get_server_ports(context_, 1, &port) == 1);
    options_.listen.port = static_cast<uint16_t>(port.port);
    return absl::OkStatus();
  }

  void Touch() override {
    touched_.store(options_.clock->Now().time_since_epoch().count(), std::memory_order_relaxed);
  }
  void SetReady() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    not_ready_because_.reset();
  }
  void SetNotReady(absl::string_view reason) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    not_ready_because_ = std::string(reason);
  }
  void SetStarted() override { started_ = true; }
  Endpoint address() const override { return options_.listen; }

 private:
  static int OnRequest(mg_connection* connection) {
    const mg_request_info* const request = mg_get_request_info(connection);
    auto* const self = static_cast<CivetHealthServer*>(request->user_data);
    Reply reply;
    try {
      reply = self->Answer(request);
    } catch (const std::exception&) {
      reply = {.code = 500, .body = "this answer could not be made\n"};
    }
    const bool is_head = strcmp(request->request_method, "HEAD") == 0;
    mg_printf(connection,
              "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s"
              "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
              "Connection: close\r\n\r\n",
              reply.code, Reason(reply.code), reply.type, reply.body.size(),
              reply.code == 405 ? "Allow: GET, HEAD\r\n" : "");
    if (!is_head) mg_write(connection, reply.body.data(), reply.body.size());
    return reply.code;  // not 0: civetweb does nothing more with it
  }

  Reply Answer(const mg_request_info* request) {
    const absl::string_view method = request->request_method;
    const absl::string_view path = request->local_uri;
    using Page = Reply (CivetHealthServer::*)();
    constexpr std::array<std::pair<absl::string_view, Page>, 5> kPages = {
        {{"/metrics", &CivetHealthServer::Metrics},
         {"/livez", &CivetHealthServer::Live},
         {"/readyz", &CivetHealthServer::Ready},
         {"/startupz", &CivetHealthServer::Started},
         {"/statusz", &CivetHealthServer::Status}}};
    for (const auto& [name, page] : kPages) {
      if (path != name) continue;
      if (method != "GET" && method != "HEAD") return {.code = 405, .body = "GET only\n"};
      return (this->*page)();
    }
    return {.code = 404, .body = "try /metrics /livez /readyz /startupz /statusz\n"};
  }

  // civetweb's accepting thread looks at its stop flag every 2 s, or when someone connects: do so,
  // since every restart of a process would pay for it.
  void Stop() {
    std::atomic<bool> stopped = false;
    std::thread waker([this, &stopped] {
      while (!stopped) {
        Knock(options_.listen);
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    });
    mg_stop(context_);
    stopped = true;
    waker.join();
  }

  Reply Metrics() {
    return {.body = MetricsText(*options_.registry), .type = "text/plain; version=0.0.4"};
  }

  Reply Live() {
    const std::chrono::nanoseconds silent =
        options_.clock->Now().time_since_epoch() -
        std::chrono::nanoseconds(touched_.load(std::memory_order_relaxed));
    if (silent <= options_.stall_after) return {.body = "live\n"};
    const double seconds = std::chrono::duration<double>(silent).count();
    return {.code = 503,
            .body = absl::StrCat("the event loop has not turned for ", seconds,
                                 " s; allowed: ", FormatDuration(options_.stall_after), "\n")};
  }

  Reply Ready() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!not_ready_because_.has_value()) return {.body = "ready\n"};
    return {.code = 503, .body = absl::StrCat("not ready: ", Escaped(*not_ready_because_), "\n")};
  }

  Reply Started() {
    if (started_) return {.body = "started\n"};
    return {.code = 503, .body = "starting\n"};
  }

  Reply Status() {
    return {.body = options_.statusz ? options_.statusz() : std::string("no status page\n")};
  }

  HealthOptions options_;
  std::atomic<int64_t> touched_;
  std::atomic<bool> started_ = false;
  std::mutex mutex_;
  std::optional<std::string> not_ready_because_ = "starting";
  bool initialized_ = false;
  mg_context* context_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HealthServer>> NewHealthServer(const HealthOptions& options) {
  KV_CHECK(options.clock != nullptr && options.registry != nullptr);
  KV_RETURN_IF_ERROR(CheckAddress(options.listen));
  auto server = std::make_unique<CivetHealthServer>(options);
  KV_RETURN_IF_ERROR(server->Start());
  return server;
}

}  // namespace palimpsest
