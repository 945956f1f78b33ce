// SPDX-License-Identifier: Apache-2.0
#include "services/cli/client/worker_client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "services/cli/client/peer.h"
#include "services/cli/client/wire_messages.h"

namespace palimpsest::cli {
namespace {

using EventHandler = std::function<void(ChainEvent)>;

class SinkServer final : public wire::TokenSink::Server {
 public:
  explicit SinkServer(EventHandler on_event) : on_event_(std::move(on_event)) {}

  kj::Promise<void> push(PushContext context) override {
    for (const auto reader : context.getParams().getEvents()) {
      absl::StatusOr<ChainEvent> event = ReadChainEvent(reader);
      if (!event.ok()) return ExceptionFromStatus(event.status());
      on_event_(*std::move(event));
    }
    return kj::READY_NOW;
  }

 private:
  EventHandler on_event_;
};

}  // namespace

struct WorkerClient::Impl {
  Impl(EventLoop* event_loop, const Endpoint& where, Clock::Duration limit,
       std::unique_ptr<RpcConnection> wire_connection)
      : loop(event_loop),
        endpoint(where),
        timeout(limit),
        connection(std::move(wire_connection)),
        decode(connection->PeerBootstrap().castAs<wire::Decode>()),
        watch(connection->OnDisconnect()
                  .then([this] { lost = true; }, [this](kj::Exception&&) { lost = true; })
                  .eagerlyEvaluate(nullptr)) {}

  absl::StatusOr<WorkerStatus> AskStatus() {
    auto response = loop->impl().Wait(
        kj::Promise<capnp::Response<wire::Decode::StatusResults>>(decode.statusRequest().send()),
        timeout);
    if (!response.ok()) return response.status();
    absl::StatusOr<WorkerStatus> status = absl::UnknownError("");
    KV_RETURN_IF_ERROR(CatchKj([&] { status = ReadWorkerStatus(response->getStatus()); }));
    return status;
  }

  EventLoop* loop;
  Endpoint endpoint;
  Clock::Duration timeout;
  std::unique_ptr<RpcConnection> connection;
  wire::Decode::Client decode;
  bool lost = false;
  kj::Promise<void> watch;
  std::vector<wire::Generation::Client> generations;
  WorkerStatus first;
};

WorkerClient::WorkerClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
WorkerClient::~WorkerClient() = default;

absl::StatusOr<std::unique_ptr<WorkerClient>> WorkerClient::Connect(EventLoop* loop,
                                                                    const Endpoint& endpoint,
                                                                    Clock::Duration timeout) {
  KV_ASSIGN_OR_RETURN(auto connection, ConnectPeer(loop, kWorkerRole, endpoint, timeout));
  auto impl = std::make_unique<Impl>(loop, endpoint, timeout, std::move(connection));
  absl::StatusOr<WorkerStatus> status = impl->AskStatus();
  if (!status.ok()) return ExplainFirstCall(status.status(), kWorkerRole, endpoint, timeout);
  impl->first = *std::move(status);
  return std::unique_ptr<WorkerClient>(new WorkerClient(std::move(impl)));
}

const WorkerStatus& WorkerClient::first_status() const { return impl_->first; }

absl::StatusOr<WorkerStatus> WorkerClient::Status() {
  absl::StatusOr<WorkerStatus> status = impl_->AskStatus();
  if (status.ok()) return status;
  return ExplainLaterCall(status.status(), kWorkerRole, impl_->endpoint, impl_->timeout);
}

absl::StatusOr<std::vector<ChainAdmission>> WorkerClient::Generate(
    absl::Span<const ChainRequest> requests, std::function<void(ChainEvent)> on_event) {
  auto call = impl_->decode.generateRequest();
  auto list = call.initRequests(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) Write(requests[i], list[i]);
  call.setSink(kj::heap<SinkServer>(std::move(on_event)));
  auto response = impl_->loop->impl().Wait(
      kj::Promise<capnp::Response<wire::Decode::GenerateResults>>(call.send()), impl_->timeout);
  if (!response.ok()) {
    return ExplainLaterCall(response.status(), kWorkerRole, impl_->endpoint, impl_->timeout);
  }
  std::vector<ChainAdmission> admissions;
  KV_RETURN_IF_ERROR(CatchKj([&] {
    for (const auto reader : response->getAdmissions()) {
      admissions.push_back(ReadAdmission(reader));
    }
    impl_->generations.push_back(response->getGeneration());
  }));
  if (admissions.size() != requests.size()) {
    return absl::InternalError(absl::StrCat("worker ", FormatEndpoint(impl_->endpoint), ": ",
                                            admissions.size(), " admissions for ", requests.size(),
                                            " requests; a bug in the worker"));
  }
  return admissions;
}

void WorkerClient::Cancel() { impl_->generations.clear(); }

absl::Status WorkerClient::Alive() const {
  if (!impl_->lost) return absl::OkStatus();
  return ExplainLaterCall(absl::UnavailableError("the other side closed it"), kWorkerRole,
                          impl_->endpoint, impl_->timeout);
}

}  // namespace palimpsest::cli
