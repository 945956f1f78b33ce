// SPDX-License-Identifier: Apache-2.0
// The worker's network side: proto/decode.capnp over TCP, on the thread of one KJ event loop. kj
// stops here; the engine, on its own thread, is reached through its thread-safe calls, and its
// events come back through a queue this loop waits on.
//
// A client that reads slowly costs only its own events' place in a buffer: while a push is on its
// way, later tokens of a request are joined to the earlier ones, so the buffer is bounded by what
// the requests may generate. A client that goes away has its requests cancelled.
#pragma once

#include <capnp/capability.h>
#include <kj/async-io.h>
#include <kj/async-unix.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "common/base/clock.h"
#include "common/rpc/rpc_connection.h"
#include "common/rpc/wake_queue.h"
#include "services/decode/engine/engine.h"
#include "services/decode/server/decode_wire.h"

namespace palimpsest {

struct DecodeServerHooks {
  std::function<void(FramingError)> on_framing_refused;
  std::function<void()> on_connection_limit;
};

class DecodeServer {
 public:
  // All outlive the server. Made and used on the loop's thread.
  DecodeServer(kj::AsyncIoProvider& io, kj::UnixEventPort& port, Engine* engine, const Clock* clock,
               WorkerIdentity identity, DecodeServerHooks hooks);
  ~DecodeServer();

  // Listens on `host:port` (port 0: any free one) and serves until dropped. Resolves to the port
  // through `bound`; rejects when the address cannot be had.
  kj::Promise<void> Serve(kj::StringPtr address, std::function<void(uint16_t)> bound);

  uint32_t connection_count() const;
  // Is everything the engine said on its way to its client, as far as this loop knows?
  bool flushed() const;

 private:
  friend class DecodeBootstrap;
  class Generation;
  struct Delivery {
    uint64_t generation = 0;
    GenerateEvent event;
  };

  kj::Promise<void> ServeConnection(kj::Own<kj::AsyncIoStream> socket);
  void Deliver(std::vector<Delivery> deliveries);

  kj::AsyncIoProvider& io_;
  Engine* const engine_;
  const Clock* const clock_;
  const WorkerIdentity identity_;
  const DecodeServerHooks hooks_;
  const Clock::Time started_;
  // Shared with the engine's thread, whose event sinks may outlive a generation.
  std::shared_ptr<WakeQueue<Delivery>> deliveries_;
  WakeQueueReader<Delivery> reader_;
  std::map<uint64_t, Generation*> generations_;  // each removes itself
  uint64_t next_generation_ = 1;
  kj::Own<RpcListener> listener_;
};

}  // namespace palimpsest
