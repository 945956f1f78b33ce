// SPDX-License-Identifier: Apache-2.0
#include "services/kvstore/connection.h"

#include "absl/strings/str_cat.h"
#include "common/rpc/rpc_status.h"
#include "common/rpc/wire.h"
#include "services/kvstore/objects.h"

namespace palimpsest {
namespace {

// How long a worker is given to hear why it is being hung up on.
constexpr auto kGoodbyeTimeout = 200 * kj::MILLISECONDS;

}  // namespace

void Hub::Flush(SessionId session) {
  SendGoodbyes();
  const auto found = by_session.find(session);
  if (found != by_session.end() && engine.HasOutput(session)) found->second->Pump();
}

void Hub::SendGoodbyes() {
  for (const EndedSession& ended : engine.TakeEnded()) {
    const auto found = by_session.find(ended.session);
    if (found != by_session.end()) found->second->SayGoodbye(ended.reason);
  }
}

Connection::Connection(Hub& hub, kj::Own<kj::AsyncIoStream> socket)
    : hub_(hub),
      last_call_(hub.clock.Now()),
      last_heartbeat_(last_call_),
      rpc_(kj::mv(socket), capnp::rpc::twoparty::Side::SERVER, NewStoreObject(hub, *this),
           [this](FramingError error) {
             end_reason_ = std::string(Name(error));
             hub_.OnRejected(StoreRejection::kFraming);
           }),
      tasks_(*this) {
  hub_.connections.insert(this);
}

Connection::~Connection() noexcept(false) {
  hub_.connections.erase(this);
  if (!session_.has_value()) return;
  hub_.by_session.erase(*session_);
  const uint64_t freed_before = hub_.engine.counters().sequences_freed;
  hub_.engine.Close(*session_);  // the worker is gone: its sequences are free now, not later
  if (hub_.observer == nullptr) return;
  hub_.observer->OnSessionEnded(worker_, *session_, end_reason_,
                                hub_.engine.counters().sequences_freed - freed_before);
}

kj::Promise<void> Connection::Serve() {
  return rpc_.OnDisconnect().exclusiveJoin(kj::mv(cut_.promise));
}

void Connection::Cut() { cut_.fulfiller->fulfill(); }

void Connection::SessionOpened(const SessionGrant& grant, const std::string& worker,
                               wire::PlanSink::Client sink) {
  session_ = grant.session;
  worker_ = worker;
  sink_ = kj::mv(sink);
  heartbeat_ = std::chrono::milliseconds(grant.heartbeat_ms);
  last_heartbeat_ = hub_.clock.Now();
  hub_.by_session[grant.session] = this;
  if (hub_.observer != nullptr) hub_.observer->OnSessionOpened(worker_, grant.session);
}

void Connection::Pump() {
  if (pushing_ || saying_goodbye_ || !session_.has_value()) return;
  const PlanBatchMessage batch = hub_.engine.TakeOutput(*session_);
  if (batch.empty()) return;
  KJ_IF_MAYBE (sink, sink_) {
    auto request = sink->pushRequest();
    Write(batch, request.initBatch());
    pushing_ = true;
    // Resolves when the window has room for more, which is what makes a slow worker slow only
    // for itself.
    tasks_.add(request.send().then([this] {
      pushing_ = false;
      hub_.OnCall(StoreCall::kPush);
      Pump();
    }));
  }
}

void Connection::SayGoodbye(const Refusal& reason) {
  if (saying_goodbye_) return;
  saying_goodbye_ = true;
  end_reason_ = ToString(reason);
  KJ_IF_MAYBE (sink, sink_) {
    auto request = sink->closeRequest();
    Write(reason, request.initReason());
    auto answered = request.send().ignoreResult().catch_([](kj::Exception&&) {});
    tasks_.add(answered.exclusiveJoin(hub_.timer.afterDelay(kGoodbyeTimeout)).then([this] {
      hub_.OnCall(StoreCall::kClose);
      Cut();
    }));
  } else {
    Cut();
  }
}

void Connection::Tick() {
  const Clock::Time now = hub_.clock.Now();
  if (!session_.has_value()) {
    if (now - last_call_ <= hub_.options.handshake_timeout) return;
    hub_.OnRejected(StoreRejection::kTimeout);
    return Cut();
  }
  if (saying_goodbye_ || heartbeat_pending_ || now - last_heartbeat_ < heartbeat_) return;
  SendHeartbeat();
}

void Connection::SendHeartbeat() {
  KJ_IF_MAYBE (sink, sink_) {
    const Clock::Time sent_at = hub_.clock.Now();
    last_heartbeat_ = sent_at;
    heartbeat_pending_ = true;
    auto request = sink->heartbeatRequest();
    request.setNonce(static_cast<uint64_t>(sent_at.time_since_epoch().count()));
    tasks_.add(request.send().then([this, sent_at](auto&&) {
      heartbeat_pending_ = false;
      hub_.engine.Heard(*session_);
      if (hub_.observer != nullptr) hub_.observer->OnHeartbeat(hub_.clock.Now() - sent_at);
    }));
  }
}

void Connection::taskFailed(kj::Exception&& exception) {
  if (!saying_goodbye_) {
    end_reason_ = std::string(StatusFromException(exception).message());
  }
  Cut();  // a sink that fails once has lost something
}

}  // namespace palimpsest
