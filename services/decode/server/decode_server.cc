// SPDX-License-Identifier: Apache-2.0
#include "services/decode/server/decode_server.h"

#include <algorithm>
#include <utility>

#include "common/base/limits.h"

namespace palimpsest {
namespace {

// Joins a later event of a request to an earlier one that was not sent yet.
void Join(GenerateEvent& event, GenerateEvent later) {
  event.tokens.insert(event.tokens.end(), later.tokens.begin(), later.tokens.end());
  event.finished = later.finished;
  event.error = std::move(later.error);
  event.stats = std::move(later.stats);
}

}  // namespace

// The submitter's hold on a batch of requests, and the way its events take.
class DecodeServer::Generation final : public wire::Generation::Server {
 public:
  Generation(DecodeServer* server, uint64_t id, wire::TokenSink::Client sink)
      : server_(server), id_(id), sink_(kj::mv(sink)) {
    server_->generations_[id_] = this;
  }
  ~Generation() noexcept(false) {
    server_->generations_.erase(id_);
    for (const auto& [request, unfinished] : open_) server_->engine_->Cancel(request);
  }

  bool flushed() const { return !pushing_; }
  void Add(RequestId request) { open_[request] = true; }

  void Take(GenerateEvent event) {
    if (event.finished.has_value()) open_.erase(event.request);
    auto [place, fresh] = pending_.try_emplace(event.request);
    if (fresh) {
      place->second = std::move(event);
    } else {
      Join(place->second, std::move(event));
    }
    if (pushing_) return;
    pushing_ = true;
    // A client that fails has hung up, or broken its own sink: nobody is left to hear of it.
    push_ = PushAll().eagerlyEvaluate([](kj::Exception&&) {});
  }

 private:
  // One message after the other until nothing is pending.
  kj::Promise<void> PushAll() {
    if (pending_.empty()) {
      pushing_ = false;
      return kj::READY_NOW;
    }
    auto request = sink_.pushRequest();
    auto events = request.initEvents(static_cast<unsigned>(pending_.size()));
    unsigned i = 0;
    for (const auto& [id, event] : pending_) Write(event, events[i++]);
    pending_.clear();
    return request.send().then([this] { return PushAll(); });
  }

  DecodeServer* const server_;
  const uint64_t id_;
  wire::TokenSink::Client sink_;
  std::map<RequestId, bool> open_;
  std::map<RequestId, GenerateEvent> pending_;
  bool pushing_ = false;
  kj::Promise<void> push_ = kj::READY_NOW;
};

// What a connection offers. One a connection; holds nothing.
class DecodeBootstrap final : public wire::Decode::Server {
 public:
  explicit DecodeBootstrap(DecodeServer* server) : server_(server) {}

 protected:
  kj::Promise<void> generate(GenerateContext context) override {
    const auto wanted = context.getParams().getRequests();
    KJ_REQUIRE(wanted.size() <= limits::kRequestsPerBatchMax, "requests: too many in one batch",
               wanted.size());
    const uint64_t id = server_->next_generation_++;
    auto generation =
        kj::heap<DecodeServer::Generation>(server_, id, context.getParams().getSink());

    std::vector<Admission> admissions(wanted.size());
    std::vector<GenerateRequest> readable;
    std::vector<unsigned> readable_index;
    for (unsigned i = 0; i < wanted.size(); ++i) {
      absl::StatusOr<GenerateRequest> request = ReadRequest(wanted[i], server_->identity_);
      admissions[i].status = request.status();
      if (!request.ok()) continue;
      readable.push_back(*std::move(request));
      readable_index.push_back(i);
    }
    // The queue, not the server, is what the engine's thread holds on to.
    const EventSink sink = [queue = server_->deliveries_, id](GenerateEvent event) {
      queue->PushAlways({id, std::move(event)});
    };
    std::vector<Admission> answers = server_->engine_->Submit(std::move(readable), sink);
    for (size_t i = 0; i < answers.size(); ++i) {
      if (answers[i].status.ok()) generation->Add(answers[i].request);
      admissions[readable_index[i]] = std::move(answers[i]);
    }
    auto results = context.getResults();
    auto list = results.initAdmissions(wanted.size());
    for (unsigned i = 0; i < list.size(); ++i) Write(admissions[i], list[i]);
    results.setGeneration(kj::mv(generation));
    return kj::READY_NOW;
  }

  kj::Promise<void> status(StatusContext context) override {
    const double uptime =
        std::chrono::duration<double>(server_->clock_->Now() - server_->started_).count();
    Write(server_->identity_, uptime, server_->engine_->Snapshot(),
          context.getResults().initStatus());
    return kj::READY_NOW;
  }

 private:
  DecodeServer* const server_;
};

DecodeServer::DecodeServer(kj::AsyncIoProvider& io, kj::UnixEventPort& port, Engine* engine,
                           const Clock* clock, WorkerIdentity identity, DecodeServerHooks hooks)
    : io_(io),
      engine_(engine),
      clock_(clock),
      identity_(std::move(identity)),
      hooks_(std::move(hooks)),
      started_(clock->Now()),
      deliveries_(std::make_shared<WakeQueue<Delivery>>(SIZE_MAX)),
      reader_(port, *deliveries_) {}

DecodeServer::~DecodeServer() = default;

kj::Promise<void> DecodeServer::Serve(kj::StringPtr address, std::function<void(uint16_t)> bound) {
  auto deliver =
      reader_.Run([this](std::vector<Delivery> deliveries) { Deliver(std::move(deliveries)); });
  auto serve = io_.getNetwork().parseAddress(address).then(
      [this, bound = std::move(bound)](kj::Own<kj::NetworkAddress> parsed) {
        listener_ = kj::heap<RpcListener>(
            parsed->listen(), io_.getTimer(), limits::kConnectionsMax,
            [this](kj::Own<kj::AsyncIoStream> socket) { return ServeConnection(kj::mv(socket)); },
            hooks_.on_connection_limit);
        bound(listener_->port());
        return listener_->Run();
      });
  return deliver.exclusiveJoin(kj::mv(serve));
}

uint32_t DecodeServer::connection_count() const {
  return listener_.get() == nullptr ? 0 : listener_->connection_count();
}

bool DecodeServer::flushed() const {
  return std::all_of(generations_.begin(), generations_.end(),
                     [](const auto& entry) { return entry.second->flushed(); });
}

kj::Promise<void> DecodeServer::ServeConnection(kj::Own<kj::AsyncIoStream> socket) {
  auto connection = kj::heap<RpcConnection>(
      kj::mv(socket), capnp::rpc::twoparty::Side::SERVER,
      capnp::Capability::Client(kj::heap<DecodeBootstrap>(this)), hooks_.on_framing_refused);
  auto ended = connection->OnDisconnect();
  return ended.attach(kj::mv(connection));
}

void DecodeServer::Deliver(std::vector<Delivery> deliveries) {
  for (Delivery& delivery : deliveries) {
    const auto place = generations_.find(delivery.generation);
    // Events of a generation that was dropped meanwhile are nobody's.
    if (place != generations_.end()) place->second->Take(std::move(delivery.event));
  }
}

}  // namespace palimpsest
