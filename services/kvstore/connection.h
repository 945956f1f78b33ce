// SPDX-License-Identifier: Apache-2.0
// One worker's (or one status client's) connection to the shard, and the objects it is given.
//
// Objects handed to the peer hold the Hub and a session's number, never the Connection: they may
// outlive it by a turn of the loop. A Connection dies only in its own task's end, never inside one
// of its callbacks; Cut() asks for that.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "common/base/clock.h"
#include "common/rpc/rpc_connection.h"
#include "proto/kvstore.capnp.h"
#include "services/kvstore/engine.h"
#include "services/kvstore/server.h"

namespace palimpsest {

class Connection;

// What the connections of a shard share. Outlives them all.
struct Hub {
  StoreEngine& engine;
  const Clock& clock;
  kj::Timer& timer;
  const StoreServerOptions& options;
  StoreServerObserver* observer;
  std::set<Connection*> connections;
  std::map<SessionId, Connection*> by_session;

  // Sends what the engine has for the session, and the goodbyes of sessions it has ended.
  void Flush(SessionId session);
  void SendGoodbyes();
  void OnCall(StoreCall call, std::optional<Refusal::Code> refusal = std::nullopt) {
    if (observer != nullptr) observer->OnCall(call, refusal);
  }
  void OnRejected(StoreRejection rejection) {
    if (observer != nullptr) observer->OnRejected(rejection);
  }
};

class Connection final : private kj::TaskSet::ErrorHandler {
 public:
  Connection(Hub& hub, kj::Own<kj::AsyncIoStream> socket);
  ~Connection() noexcept(false);
  KJ_DISALLOW_COPY(Connection);

  // Resolves when the connection has ended.
  kj::Promise<void> Serve();
  // Ends it, soon.
  void Cut();
  // Sends what the engine has; one batch is under way at a time, the rest waits in the engine,
  // where it is merged.
  void Pump();
  // Tells the worker why its session ended, then cuts.
  void SayGoodbye(const Refusal& reason);
  // Heartbeats and the handshake's deadline. A few times a heartbeat.
  void Tick();

  bool has_session() const { return session_.has_value(); }
  void SessionOpened(const SessionGrant& grant, const std::string& worker,
                     wire::PlanSink::Client sink);
  // A call completed: the peer is not just holding the socket.
  void NoteCall() { last_call_ = hub_.clock.Now(); }

 private:
  void taskFailed(kj::Exception&& exception) override;
  void SendHeartbeat();

  Hub& hub_;
  std::optional<SessionId> session_;
  std::string worker_;
  std::string end_reason_ = "the connection ended";
  kj::Maybe<wire::PlanSink::Client> sink_;
  Clock::Time last_call_;
  Clock::Time last_heartbeat_;
  std::chrono::milliseconds heartbeat_{0};
  bool heartbeat_pending_ = false;
  bool pushing_ = false;
  bool saying_goodbye_ = false;
  kj::PromiseFulfillerPair<void> cut_ = kj::newPromiseAndFulfiller<void>();
  RpcConnection rpc_;
  kj::TaskSet tasks_;  // last: its promises use everything above
};

}  // namespace palimpsest
