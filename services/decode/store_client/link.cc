// SPDX-License-Identifier: Apache-2.0
#include "services/decode/store_client/link.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/rpc/rpc_status.h"
#include "common/rpc/wire.h"

namespace palimpsest {
namespace {

constexpr int kSilentHeartbeatsMax = 3;
constexpr size_t kItemsPerBatchMax = 256;
constexpr size_t kRunsPerBatchMax = 65536;  // sealed runs or anneals, 16 bytes each
constexpr size_t kWaitingReportsMax = 1024;
constexpr size_t kUnacknowledgedLagsMax = 16;

}  // namespace

// What the store calls. Held by the connection, so it never outlives the Link that owns that.
class Link::Sink final : public wire::PlanSink::Server {
 public:
  explicit Sink(Link& link) : link_(link) {}

  kj::Promise<void> push(PushContext context) override {
    link_.last_heard_ = link_.context_.clock.Now();
    link_.PlansArrived(context.getParams().getBatch());
    return kj::READY_NOW;
  }

  kj::Promise<void> heartbeat(HeartbeatContext context) override {
    link_.last_heard_ = link_.context_.clock.Now();
    context.getResults().setNonce(context.getParams().getNonce());
    return kj::READY_NOW;
  }

  kj::Promise<void> close(CloseContext context) override {
    link_.Closed(ReadRefusal(context.getParams().getReason()));
    return kj::READY_NOW;
  }

 private:
  Link& link_;
};

Link::Link(LinkContext& context, kj::Own<kj::AsyncIoStream> socket)
    : context_(context),
      heartbeat_(context.options.heartbeat),
      last_heard_(context.clock.Now()),
      last_heartbeat_(last_heard_),
      rpc_(kj::mv(socket), capnp::rpc::twoparty::Side::CLIENT, nullptr,
           [this](FramingError error) { End(std::string(Name(error))); }),
      tasks_(*this) {
  tasks_.add(rpc_.OnDisconnect().then([this] { End("the connection ended"); }));
}

kj::Promise<std::optional<Refusal>> Link::Open() {
  auto request = rpc_.PeerBootstrap().castAs<wire::KvStore>().openRequest();
  Write(HelloMessage{.protocol_version = kProtocolVersion,
                     .worker_name = context_.options.worker_name,
                     .worker_incarnation = context_.incarnation,
                     .credential = context_.options.credential,
                     .heartbeat_ms = static_cast<uint32_t>(context_.options.heartbeat.count())},
        request.initHello());
  request.setSink(kj::heap<Sink>(*this));
  return request.send().then([this](auto&& response) -> std::optional<Refusal> {
    const wire::OpenResult::Reader result = response.getResult();
    if (result.isRefusal()) return ReadRefusal(result.getRefusal());
    if (!result.isSession()) return Refusal{.text = "the answer is of an unknown kind"};
    const auto session = result.getSession();
    if (session.getEpoch() < context_.epoch_seen) {
      return Refusal{.code = Refusal::Code::kStaleEpoch,
                     .text = absl::StrCat("the store has epoch ", session.getEpoch(), ", but ",
                                          context_.epoch_seen, " was seen from it before"),
                     .value = context_.epoch_seen};
    }
    context_.epoch_seen = session.getEpoch();
    heartbeat_ =
        std::chrono::milliseconds(std::clamp<uint32_t>(session.getHeartbeatMs(), 10, 60000));
    session_ = session.getCapability();
    last_heard_ = last_heartbeat_ = context_.clock.Now();
    return std::nullopt;
  });
}

kj::Promise<std::string> Link::Ended() { return kj::mv(end_.promise); }

void Link::End(std::string why) {
  if (std::exchange(ended_, true)) return;
  end_.fulfiller->fulfill(kj::mv(why));
}

void Link::End(const kj::Exception& exception) {
  End(std::string(StatusFromException(exception).message()));
}

void Link::Closed(const Refusal& reason) { End(ToString(reason)); }

void Link::MarkLost(SequenceId sequence) {
  const auto found = registrations_.find(sequence);
  if (found != registrations_.end()) {
    found->second.phase = Registration::Phase::kLost;
    found->second.waiting.clear();
  }
  context_.mailbox.MarkLost(sequence);
}

void Link::Register(SequenceSnapshot snapshot) {
  const SequenceId id = snapshot.sequence;
  Registration& registration = registrations_[id];
  by_handle_.erase(registration.stamp.handle);
  const uint64_t attempt = ++last_attempt_;
  registration = Registration{};
  registration.attempt = attempt;
  KJ_IF_MAYBE (session, session_) {
    auto request = session->registerRequest();
    Write(SnapshotMessage{.sequence = id,
                          .tenant = std::move(snapshot.tenant),
                          .policy = std::move(snapshot.policy),
                          .state = std::move(snapshot.state),
                          .last_report = snapshot.report_number,
                          .last_plan = context_.known[id].last_plan},
          request.initSnapshot());
    tasks_.add(request.send().then([this, id, attempt](auto&& response) {
      last_heard_ = context_.clock.Now();
      Registered(id, attempt, response.getResult());
    }));
  }
}

void Link::Registered(SequenceId sequence, uint64_t attempt, wire::RegisterResult::Reader result) {
  const auto found = registrations_.find(sequence);
  // Finished or registered again meanwhile: the capability in `result` is dropped, which frees it.
  if (found == registrations_.end() || found->second.attempt != attempt) return;
  if (!result.isSequence()) return RegistrationRefused(sequence, ReadRefusal(result.getRefusal()));
  Registration& registration = found->second;
  const auto answer = result.getSequence();
  registration.stamp = {
      .handle = answer.getHandle(), .partition = answer.getPartition(), .epoch = answer.getEpoch()};
  registration.capability = answer.getCapability();
  by_handle_[registration.stamp.handle] = sequence;
  if (registration.phase == Registration::Phase::kLost) return;  // lost while it was under way
  registration.phase = Registration::Phase::kRegistered;
  for (ReportMessage& report : registration.waiting) {
    report.stamp = registration.stamp;
    reports_.push_back(std::move(report));
  }
  registration.waiting.clear();
  Flush();
}

// The engine goes on without the store's plans; it is asked again when that may help.
void Link::RegistrationRefused(SequenceId sequence, const Refusal& refusal) {
  Registration& registration = registrations_[sequence];
  registration.phase = Registration::Phase::kLost;
  registration.waiting.clear();
  if (refusal.retry_after_ms == 0) return;
  const uint64_t attempt = registration.attempt;
  tasks_.add(context_.timer.afterDelay(refusal.retry_after_ms * kj::MILLISECONDS)
                 .then([this, sequence, attempt] {
                   const auto found = registrations_.find(sequence);
                   if (found == registrations_.end() || found->second.attempt != attempt) return;
                   context_.mailbox.MarkLost(sequence);
                 }));
}

// The store does not read: what cannot be kept is made good by a snapshot later.
bool Link::HasRoom(SequenceId sequence) {
  if (reports_.size() + acks_.size() < context_.options.queue_items_max) return true;
  context_.Drop(StoreClientDrop::kReportQueueFull);
  MarkLost(sequence);
  return false;
}

void Link::Report(SequenceReport report) {
  const auto found = registrations_.find(report.sequence);
  if (found == registrations_.end() || found->second.phase == Registration::Phase::kLost) {
    return context_.Drop(StoreClientDrop::kReportAway);
  }
  if (!HasRoom(report.sequence)) return;
  Registration& registration = found->second;
  ReportMessage message = {.stamp = registration.stamp,
                           .number = report.report_number,
                           .sealed = std::move(report.sealed),
                           .refresh = report.refresh,
                           .sparsity = std::move(report.sparsity),
                           .wants_answer = report.wants_answer,
                           .sent_at_ns = context_.clock.Now().time_since_epoch().count()};
  if (registration.phase == Registration::Phase::kRegistered) {
    reports_.push_back(std::move(message));
  } else if (registration.waiting.size() < kWaitingReportsMax) {
    registration.waiting.push_back(std::move(message));
  } else {
    context_.Drop(StoreClientDrop::kReportQueueFull);
    MarkLost(report.sequence);
  }
}

void Link::Acknowledge(PlanAck ack) {
  const auto found = registrations_.find(ack.sequence);
  if (found == registrations_.end() || found->second.phase != Registration::Phase::kRegistered) {
    return context_.Drop(StoreClientDrop::kReportAway);
  }
  if (!HasRoom(ack.sequence)) return;
  Registration& registration = found->second;
  AckMessage message = {.stamp = registration.stamp,
                        .plan_number = ack.plan_number,
                        .applied = std::move(ack.applied)};
  auto& lags = registration.lags_ns;
  while (!lags.empty() && lags.front().first <= ack.plan_number) {
    if (lags.front().first == ack.plan_number) message.lag_ns = lags.front().second;
    lags.pop_front();
  }
  acks_.push_back(std::move(message));
}

void Link::Finish(SequenceId sequence) {
  const auto found = registrations_.find(sequence);
  if (found == registrations_.end()) return;
  by_handle_.erase(found->second.stamp.handle);
  registrations_.erase(found);  // drops the capability, which frees the sequence in the store
}

void Link::Flush() {
  // One batch of each under way; what comes meanwhile goes with the next.
  if (sending_ || ended_) return;
  if (!reports_.empty()) return SendReports();
  if (!acks_.empty()) SendAcks();
}

void Link::SendReports() {
  KJ_IF_MAYBE (session, session_) {
    size_t count = 0;
    for (size_t runs = 0; count < reports_.size() && count < kItemsPerBatchMax; ++count) {
      runs += reports_[count].sealed.size();
      if (count > 0 && runs > kRunsPerBatchMax) break;
    }
    auto request = session->reportRequest();
    auto list = request.initBatch().initReports(static_cast<unsigned>(count));
    for (size_t i = 0; i < count; ++i) Write(reports_[i], list[static_cast<unsigned>(i)]);
    reports_.erase(reports_.begin(), reports_.begin() + static_cast<ptrdiff_t>(count));
    AddSent(request.send());
  }
}

void Link::SendAcks() {
  KJ_IF_MAYBE (session, session_) {
    size_t count = 0;
    for (size_t runs = 0; count < acks_.size() && count < kItemsPerBatchMax; ++count) {
      runs += acks_[count].applied.size();
      if (count > 0 && runs > kRunsPerBatchMax) break;
    }
    auto request = session->acknowledgeRequest();
    auto list = request.initBatch().initAcks(static_cast<unsigned>(count));
    for (size_t i = 0; i < count; ++i) Write(acks_[i], list[static_cast<unsigned>(i)]);
    acks_.erase(acks_.begin(), acks_.begin() + static_cast<ptrdiff_t>(count));
    AddSent(request.send());
  }
}

// A streaming call's promise resolves when the window has room for the next one.
void Link::AddSent(kj::Promise<void> sent) {
  sending_ = true;
  tasks_.add(sent.then([this] {
    sending_ = false;
    Flush();
  }));
}

void Link::Tick() {
  const Clock::Time now = context_.clock.Now();
  if (now - last_heard_ > kSilentHeartbeatsMax * heartbeat_) {
    return End("nothing was heard from the store for three heartbeats");
  }
  if (heartbeat_pending_ || now - last_heartbeat_ < heartbeat_) return;
  KJ_IF_MAYBE (session, session_) {
    last_heartbeat_ = now;
    heartbeat_pending_ = true;
    auto request = session->heartbeatRequest();
    request.setNonce(static_cast<uint64_t>(now.time_since_epoch().count()));
    tasks_.add(request.send().then([this, now](auto&& response) {
      heartbeat_pending_ = false;
      last_heard_ = context_.clock.Now();
      if (response.getEpoch() > context_.epoch_seen) {
        return End("the store has a new epoch");  // registrations carry the old one
      }
      if (context_.options.observer != nullptr) {
        context_.options.observer->OnHeartbeat(last_heard_ - now);
      }
    }));
  }
}

kj::Promise<void> Link::Confirm() {
  KJ_IF_MAYBE (session, session_) {
    return session->heartbeatRequest().send().ignoreResult();
  }
  return kj::READY_NOW;
}

void Link::PlansArrived(wire::PlanBatch::Reader batch) {
  if (batch.getPlans().size() > limits::kReportsPerBatchMax ||
      batch.getNeedsSnapshot().size() > limits::kSequencesPerSessionMax ||
      batch.getRefusals().size() > limits::kReportsPerBatchMax) {
    context_.Drop(StoreClientDrop::kPlanInvalid);
    return End("the store sent a list that is too long");
  }
  for (const auto reader : batch.getPlans()) {
    const auto plan = ReadPlan(reader);
    if (!plan.ok()) {
      context_.Drop(StoreClientDrop::kPlanInvalid);
      return End(std::string(plan.status().message()));
    }
    PlanArrived(*plan);
  }
  const auto mark_lost = [this](uint32_t handle) {
    const auto found = by_handle_.find(handle);
    if (found != by_handle_.end()) MarkLost(found->second);
  };
  for (const uint32_t handle : batch.getNeedsSnapshot()) mark_lost(handle);
  // Whatever the reason, the store has not counted something: a snapshot puts it right.
  for (const auto refusal : batch.getRefusals()) mark_lost(refusal.getHandle());
}

void Link::PlanArrived(const PlanMessage& message) {
  const auto handle = by_handle_.find(message.stamp.handle);
  if (handle == by_handle_.end()) return context_.Drop(StoreClientDrop::kPlanStale);
  const SequenceId sequence = handle->second;
  Registration& registration = registrations_[sequence];
  if (message.stamp != registration.stamp) return context_.Drop(StoreClientDrop::kPlanStale);
  KnownSequence& known = context_.known[sequence];
  if (message.plan_number <= known.last_plan) {
    return context_.Drop(StoreClientDrop::kPlanDuplicate);
  }
  known.last_plan = message.plan_number;
  const int64_t lag_ns = context_.clock.Now().time_since_epoch().count() - message.echo_sent_at_ns;
  if (context_.options.observer != nullptr && lag_ns >= 0) {
    context_.options.observer->OnPlanLag(std::chrono::nanoseconds(lag_ns));
  }
  registration.lags_ns.emplace_back(message.plan_number, lag_ns);
  if (registration.lags_ns.size() > kUnacknowledgedLagsMax) registration.lags_ns.pop_front();
  if (!context_.mailbox.PutPlan({.sequence = sequence,
                                 .plan_number = message.plan_number,
                                 .report_number = message.report_number,
                                 .plan = message.plan})) {
    context_.Drop(StoreClientDrop::kPlanMailboxFull);
    MarkLost(sequence);  // the store counts the plan as done
  }
}

}  // namespace palimpsest
