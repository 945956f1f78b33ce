// SPDX-License-Identifier: Apache-2.0
// One connection to the store, from an open session to its end: registrations, outgoing batches,
// the sink for plans, heartbeats. Lives on the network thread; a new connection is a new Link.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/base/clock.h"
#include "common/rpc/messages.h"
#include "common/rpc/rpc_connection.h"
#include "proto/kvstore.capnp.h"
#include "services/decode/store_client/mailbox.h"
#include "services/decode/store_client/store_client.h"

namespace palimpsest {

// What outlives a connection: the sequences the engine has, and the highest plan number each was
// given. Numbers go on rising in the next session.
struct KnownSequence {
  uint64_t last_plan = 0;
};

struct LinkContext {
  const StoreClientOptions& options;
  const Clock& clock;
  kj::Timer& timer;
  Mailbox& mailbox;
  std::unordered_map<SequenceId, KnownSequence>& known;
  uint64_t incarnation = 0;
  uint64_t epoch_seen = 0;  // the highest

  void Drop(StoreClientDrop drop, uint64_t count = 1) const {
    if (options.observer != nullptr) options.observer->OnDrop(drop, count);
  }
};

class Link final : private kj::TaskSet::ErrorHandler {
 public:
  Link(LinkContext& context, kj::Own<kj::AsyncIoStream> socket);
  KJ_DISALLOW_COPY(Link);

  // Opens the session. Resolves to a refusal when the store wants none.
  kj::Promise<std::optional<Refusal>> Open();
  // Resolves when the link is no more, to the reason.
  kj::Promise<std::string> Ended();

  // What the engine says. Sent by Flush.
  void Register(SequenceSnapshot snapshot);
  void Report(SequenceReport report);
  void Acknowledge(PlanAck ack);
  void Finish(SequenceId sequence);
  void Flush();
  // Heartbeats and their deadline. A few times a heartbeat.
  void Tick();
  // Resolves when the store has everything that was flushed.
  kj::Promise<void> Confirm();

  std::chrono::milliseconds heartbeat() const { return heartbeat_; }

 private:
  class Sink;
  struct Registration {
    enum class Phase : uint8_t { kRegistering, kRegistered, kLost };
    Phase phase = Phase::kRegistering;
    uint64_t attempt = 0;  // tells an answer to an older attempt from this one's
    Stamp stamp;
    kj::Maybe<wire::Sequence::Client> capability;
    std::vector<ReportMessage> waiting;                // for the handle
    std::deque<std::pair<uint64_t, int64_t>> lags_ns;  // of plans not yet acknowledged
  };

  void taskFailed(kj::Exception&& exception) override { End(exception); }
  void End(std::string why);
  void End(const kj::Exception& exception);
  void MarkLost(SequenceId sequence);
  void Registered(SequenceId sequence, uint64_t attempt, wire::RegisterResult::Reader result);
  void RegistrationRefused(SequenceId sequence, const Refusal& refusal);
  bool HasRoom(SequenceId sequence);
  void SendReports();
  void SendAcks();
  void AddSent(kj::Promise<void> sent);
  void PlansArrived(wire::PlanBatch::Reader batch);
  void PlanArrived(const PlanMessage& message);
  void Closed(const Refusal& reason);

  LinkContext& context_;
  std::chrono::milliseconds heartbeat_;
  Clock::Time last_heard_;
  Clock::Time last_heartbeat_;
  bool heartbeat_pending_ = false;
  uint64_t last_attempt_ = 0;
  std::unordered_map<SequenceId, Registration> registrations_;
  std::unordered_map<uint32_t, SequenceId> by_handle_;
  std::deque<ReportMessage> reports_;
  std::deque<AckMessage> acks_;
  bool sending_ = false;
  bool ended_ = false;
  kj::PromiseFulfillerPair<std::string> end_ = kj::newPromiseAndFulfiller<std::string>();
  RpcConnection rpc_;
  kj::Maybe<wire::Session::Client> session_;
  kj::TaskSet tasks_;  // last: its promises use everything above
};

}  // namespace palimpsest
