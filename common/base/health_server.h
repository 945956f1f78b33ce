// SPDX-License-Identifier: Apache-2.0
// The HTTP side door of a process: metrics and probes, on threads of its own, so that it answers
// while the event loop is busy or stuck.
//
//   GET /metrics   the registry, in Prometheus' text format
//   GET /livez     200 while the event loop has turned within `stall_after`; never depends on peers
//   GET /readyz    200 when the owner says so; else 503 with the owner's reason
//   GET /startupz  200 once the owner has said that it is up
//   GET /statusz   text for a person
//
// Anything else is 404, another method 405. There is no authentication and nothing secret: bind it
// to loopback or to the pod's address. Requests are small, few at a time and short-lived.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/clock.h"
#include "common/base/values.h"

namespace prometheus {
class Registry;
}

namespace palimpsest {

struct HealthOptions {
  Endpoint listen{.host = "127.0.0.1", .port = 0};  // an address, not a name; port 0: any free one
  std::chrono::nanoseconds stall_after = std::chrono::seconds(30);
  const Clock* clock = nullptr;                    // required; outlives the server
  const prometheus::Registry* registry = nullptr;  // required; outlives the server
  // Text of /statusz. Called on a server thread: it must be safe there, quick, and not throw.
  std::function<std::string()> statusz = nullptr;
};

// Stops and joins its threads when destroyed. All methods may be called from any thread.
class HealthServer {
 public:
  virtual ~HealthServer() = default;

  // The event loop calls this each time round (it costs one atomic store). The clock starts at
  // creation, so a process that never gets to its loop stops being live as well.
  virtual void Touch() = 0;
  // Not ready at first, for the reason "starting".
  virtual void SetReady() = 0;
  virtual void SetNotReady(absl::string_view reason) = 0;
  virtual void SetStarted() = 0;
  // Where it listens, with the port that was given when 0 was asked for.
  virtual Endpoint address() const = 0;
};

// InvalidArgument: the address is not one of this machine's or not an address. Unavailable: the
// port is taken or may not be used. Both name it.
absl::StatusOr<std::unique_ptr<HealthServer>> NewHealthServer(const HealthOptions& options);

}  // namespace palimpsest
