// SPDX-License-Identifier: Apache-2.0
#include "services/kvstore/objects.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/rpc/wire.h"

namespace palimpsest {
namespace {

// Dropping it frees the sequence; see the schema.
class SequenceObject final : public wire::Sequence::Server {
 public:
  SequenceObject(Hub& hub, SessionId session, uint32_t handle)
      : hub_(hub), session_(session), handle_(handle) {}
  ~SequenceObject() noexcept(false) { hub_.engine.Release(session_, handle_); }

 private:
  Hub& hub_;
  const SessionId session_;
  const uint32_t handle_;
};

class SessionObject final : public wire::Session::Server {
 public:
  SessionObject(Hub& hub, SessionId session) : hub_(hub), session_(session) {}
  ~SessionObject() noexcept(false) { hub_.engine.Close(session_); }

  // `register` in the schema: a reserved word here.
  kj::Promise<void> register_(RegisterContext context) override {
    auto result = context.getResults().initResult();
    auto snapshot = ReadSnapshot(context.getParams().getSnapshot());
    if (!snapshot.ok()) {
      hub_.engine.Heard(session_);
      hub_.OnCall(StoreCall::kRegister, Refusal::Code::kInvalid);
      Write(Refusal{.code = Refusal::Code::kInvalid,
                    .text = std::string(snapshot.status().message())},
            result.initRefusal());
      return kj::READY_NOW;
    }
    const auto registered = hub_.engine.Register(session_, *std::move(snapshot));
    if (const auto* refusal = std::get_if<Refusal>(&registered)) {
      hub_.OnCall(StoreCall::kRegister, refusal->code);
      Write(*refusal, result.initRefusal());
      return kj::READY_NOW;
    }
    const Stamp& stamp = std::get<Stamp>(registered);
    auto sequence = result.initSequence();
    sequence.setCapability(kj::heap<SequenceObject>(hub_, session_, stamp.handle));
    sequence.setHandle(stamp.handle);
    sequence.setPartition(stamp.partition);
    sequence.setEpoch(stamp.epoch);
    hub_.OnCall(StoreCall::kRegister);
    return kj::READY_NOW;
  }

  kj::Promise<void> report(ReportContext context) override {
    const auto reports = context.getParams().getBatch().getReports();
    if (reports.size() > limits::kReportsPerBatchMax) {
      return Offend(StoreCall::kReport, absl::InvalidArgumentError("reports: too many"));
    }
    for (const auto reader : reports) {
      auto report = ReadReport(reader);
      if (!report.ok()) return Offend(StoreCall::kReport, report.status());
      hub_.engine.Report(session_, *report);
    }
    hub_.OnCall(StoreCall::kReport);
    hub_.Flush(session_);
    return kj::READY_NOW;
  }

  kj::Promise<void> acknowledge(AcknowledgeContext context) override {
    const auto acks = context.getParams().getBatch().getAcks();
    if (acks.size() > limits::kReportsPerBatchMax) {
      return Offend(StoreCall::kAcknowledge, absl::InvalidArgumentError("acks: too many"));
    }
    for (const auto reader : acks) {
      auto ack = ReadAck(reader);
      if (!ack.ok()) return Offend(StoreCall::kAcknowledge, ack.status());
      hub_.engine.Acknowledge(session_, *ack);
    }
    hub_.OnCall(StoreCall::kAcknowledge);
    hub_.Flush(session_);
    return kj::READY_NOW;
  }

  kj::Promise<void> heartbeat(HeartbeatContext context) override {
    hub_.engine.Heard(session_);
    auto results = context.getResults();
    results.setNonce(context.getParams().getNonce());
    results.setEpoch(hub_.options.engine.epoch);
    hub_.OnCall(StoreCall::kHeartbeat);
    return kj::READY_NOW;
  }

 private:
  kj::Promise<void> Offend(StoreCall call, const absl::Status& why) {
    hub_.engine.Offend(session_, why);
    hub_.OnCall(call, Refusal::Code::kInvalid);
    hub_.Flush(session_);
    return kj::READY_NOW;
  }

  Hub& hub_;
  const SessionId session_;
};

class StoreObject final : public wire::KvStore::Server {
 public:
  StoreObject(Hub& hub, Connection& connection) : hub_(hub), connection_(connection) {}

  kj::Promise<void> open(OpenContext context) override {
    auto params = context.getParams();
    auto result = context.getResults().initResult();
    const auto refuse = [&](const Refusal& refusal) {
      CountRejection(refusal.code);
      hub_.OnCall(StoreCall::kOpen, refusal.code);
      Write(refusal, result.initRefusal());
      return kj::READY_NOW;
    };
    if (connection_.has_session()) {
      return refuse(
          {.code = Refusal::Code::kLimit, .text = "a connection has one session", .value = 1});
    }
    const auto hello = ReadHello(params.getHello());
    if (!hello.ok() || !params.hasSink()) {
      return refuse(
          {.code = Refusal::Code::kInvalid,
           .text = hello.ok() ? "a sink is required" : std::string(hello.status().message())});
    }
    const auto opened = hub_.engine.Open(*hello);
    hub_.SendGoodbyes();  // it may have superseded a session
    if (const auto* refusal = std::get_if<Refusal>(&opened)) return refuse(*refusal);
    const SessionGrant& grant = std::get<SessionGrant>(opened);
    connection_.SessionOpened(grant, hello->worker_name, params.getSink());
    auto session = result.initSession();
    session.setCapability(kj::heap<SessionObject>(hub_, grant.session));
    session.setProtocolVersion(kProtocolVersion);
    session.setEpoch(grant.epoch);
    session.setHeartbeatMs(grant.heartbeat_ms);
    session.setSequencesMax(grant.sequences_max);
    hub_.OnCall(StoreCall::kOpen);
    return kj::READY_NOW;
  }

  kj::Promise<void> status(StatusContext context) override {
    connection_.NoteCall();
    auto result = context.getResults().initResult();
    const auto query = ReadStatusQuery(context.getParams().getRequest());
    const auto answer = query.ok() ? hub_.engine.Status(*query)
                                   : Refusal{.code = Refusal::Code::kInvalid,
                                             .text = std::string(query.status().message())};
    if (const auto* refusal = std::get_if<Refusal>(&answer)) {
      CountRejection(refusal->code);
      hub_.OnCall(StoreCall::kStatus, refusal->code);
      Write(*refusal, result.initRefusal());
    } else {
      hub_.OnCall(StoreCall::kStatus);
      Write(std::get<StoreStatus>(answer), result.initStatus());
    }
    return kj::READY_NOW;
  }

 private:
  void CountRejection(Refusal::Code code) {
    if (code == Refusal::Code::kUnsupportedVersion) hub_.OnRejected(StoreRejection::kVersion);
    if (code == Refusal::Code::kUnauthorized) hub_.OnRejected(StoreRejection::kCredential);
  }

  Hub& hub_;
  Connection& connection_;
};

}  // namespace

wire::KvStore::Client NewStoreObject(Hub& hub, Connection& connection) {
  return kj::heap<StoreObject>(hub, connection);
}

}  // namespace palimpsest
