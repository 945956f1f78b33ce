// SPDX-License-Identifier: Apache-2.0
// A shard on the network: one thread with a KJ event loop, which owns the engine and every
// connection. KJ stops here: nothing outside server.cc and connection.cc knows of it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "services/kvstore/engine.h"

namespace palimpsest {

enum class StoreCall : uint8_t {
  kOpen,
  kStatus,
  kRegister,
  kReport,
  kAcknowledge,
  kHeartbeat,
  kPush,
  kClose,
};

enum class StoreRejection : uint8_t { kFraming, kConnectionLimit, kVersion, kCredential, kTimeout };

// What a metric or a log may want to know. Called on the server's thread; quick.
class StoreServerObserver : public StoreEngineObserver {
 public:
  // A call was answered; `refusal` says how, when it was refused.
  virtual void OnCall(StoreCall call, std::optional<Refusal::Code> refusal) = 0;
  virtual void OnHeartbeat(std::chrono::nanoseconds round_trip) = 0;
  virtual void OnRejected(StoreRejection rejection) = 0;
  virtual void OnSessionOpened(std::string_view worker, SessionId session) = 0;
  // `sequences_freed`: 0 when the worker had finished everything.
  virtual void OnSessionEnded(std::string_view worker, SessionId session, std::string_view reason,
                              uint64_t sequences_freed) = 0;
  // A few times a heartbeat. `late`: how much later than planned the loop came round.
  virtual void OnTick(const StoreEngine& engine, uint32_t connections,
                      std::chrono::nanoseconds late) = 0;
};

struct StoreServerOptions {
  std::string listen = "127.0.0.1:0";  // "host:port", port 0: any free one; or "unix:/path"
  StoreEngineOptions engine{};
  uint32_t connections_max = limits::kConnectionsMax;
  // A connection without a session is closed when no call of it completes for so long.
  std::chrono::milliseconds handshake_timeout = limits::kHandshakeTimeout;
  const Clock* clock = nullptr;             // for the engine; null: the steady clock
  StoreServerObserver* observer = nullptr;  // optional; outlives the server
};

class StoreServer {
 public:
  // Destruction ends every connection at once and joins the thread.
  virtual ~StoreServer() = default;

  virtual uint16_t port() const = 0;
  // Refuses new sessions and sequences from now on. When no sequence is left, or `grace` is over,
  // tells every worker and hangs up; `drained()` is true then. Any thread.
  virtual void Drain(std::chrono::milliseconds grace) = 0;
  virtual bool drained() const = 0;
};

// Listens, and serves until it is destroyed. Unavailable: the address cannot be listened on.
absl::StatusOr<std::unique_ptr<StoreServer>> StartStoreServer(StoreServerOptions options);

}  // namespace palimpsest
