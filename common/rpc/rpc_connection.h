// SPDX-License-Identifier: Apache-2.0
// One Cap'n Proto connection with every limit of ours in force, and the loop that accepts them.
// Everything here belongs to the thread of one KJ event loop.
#pragma once

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <kj/timer.h>

#include <cstdint>
#include <functional>

#include "common/rpc/framing_guard.h"

namespace palimpsest {

// Traversal and nesting limits of common/base/limits.h.
capnp::ReaderOptions RpcReaderOptions();

// A two-party connection over `socket`: framing guard, reader and flow limits, TCP_NODELAY, and TCP
// keepalive as a last resort (heartbeats notice a silent peer long before).
class RpcConnection {
 public:
  RpcConnection(kj::Own<kj::AsyncIoStream> socket, capnp::rpc::twoparty::Side side,
                kj::Maybe<capnp::Capability::Client> bootstrap,
                std::function<void(FramingError)> on_refused);
  KJ_DISALLOW_COPY(RpcConnection);

  // What the other side offers.
  capnp::Capability::Client PeerBootstrap();
  // Resolves when the connection has ended, for whatever reason.
  kj::Promise<void> OnDisconnect() { return network_.onDisconnect(); }

 private:
  kj::Own<kj::AsyncIoStream> stream_;
  capnp::TwoPartyVatNetwork network_;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> system_;
};

// Accepts connections for as long as it lives. Over `connections_max` a new one is closed at once.
class RpcListener : private kj::TaskSet::ErrorHandler {
 public:
  // Serves one connection until the promise resolves; dropping the promise cuts it.
  using Serve = std::function<kj::Promise<void>(kj::Own<kj::AsyncIoStream>)>;

  RpcListener(kj::Own<kj::ConnectionReceiver> receiver, kj::Timer& timer, uint32_t connections_max,
              Serve serve, std::function<void()> on_limit);

  // Runs until it is dropped. Survives failing accepts (no file descriptor left).
  kj::Promise<void> Run();
  uint16_t port() { return static_cast<uint16_t>(receiver_->getPort()); }
  uint32_t connection_count() const { return connection_count_; }

 private:
  void taskFailed(kj::Exception&& exception) override;
  void Accepted(kj::Own<kj::AsyncIoStream> socket);

  kj::Own<kj::ConnectionReceiver> receiver_;
  kj::Timer& timer_;
  const uint32_t connections_max_;
  Serve serve_;
  std::function<void()> on_limit_;
  uint32_t connection_count_ = 0;
  kj::TaskSet tasks_;
};

}  // namespace palimpsest
