// SPDX-License-Identifier: Apache-2.0
// The network thread, which makes one Link after the other, and the ControlPlane in front of it.
#include "services/decode/store_client/store_client.h"

#include <kj/async-io.h>

#include <algorithm>
#include <random>
#include <thread>
#include <unordered_set>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/rpc/rpc_status.h"
#include "common/rpc/wake_queue.h"
#include "services/decode/store_client/link.h"
#include "services/decode/store_client/mailbox.h"

namespace palimpsest {
namespace {

constexpr std::chrono::milliseconds kTickMin{3};
constexpr std::chrono::milliseconds kTickMax{250};

struct FinishCommand {
  SequenceId sequence = 0;
};
struct StopCommand {};
using Command = std::variant<SequenceSnapshot, SequenceReport, PlanAck, FinishCommand, StopCommand>;

uint64_t RandomIncarnation() {
  std::random_device device;
  return (uint64_t{device()} << 32 | device()) | 1;  // never 0
}

// Everything that lives on the network thread.
class Network final : private kj::TaskSet::ErrorHandler {
 public:
  Network(const StoreClientOptions& options, const Clock& clock, Mailbox& mailbox,
          WakeQueue<Command>& commands)
      : options_(options),
        io_(kj::setupAsyncIo()),
        timer_(io_.provider->getTimer()),
        mailbox_(mailbox),
        context_{options, clock, timer_, mailbox, known_},
        reader_(io_.unixEventPort, commands),
        random_(RandomIncarnation()),
        backoff_(options.backoff_min),
        tasks_(*this) {
    context_.incarnation = options.incarnation != 0 ? options.incarnation : RandomIncarnation();
  }

  void Run() {
    SetState(StoreState::kConnecting, "");
    tasks_.add(ConnectForever());
    tasks_.add(Tick());
    tasks_.add(reader_.Run([this](std::vector<Command> commands) {
      for (Command& command : commands) {
        std::visit([this](auto& c) { Obey(std::move(c)); }, command);
      }
      if (connected_) link()->Flush();
    }));
    stop_.promise.wait(io_.waitScope);
    connected_ = false;
  }

 private:
  void taskFailed(kj::Exception&&) override { KV_CHECK(false); }  // none of ours may fail

  Link* link() { return link_.get(); }

  void SetState(StoreState state, std::string_view why) {
    mailbox_.SetState(state);
    if (options_.observer != nullptr) options_.observer->OnState(state, why);
  }

  void Obey(SequenceSnapshot&& snapshot) {
    known_.try_emplace(snapshot.sequence);
    if (connected_) return link()->Register(std::move(snapshot));
    mailbox_.MarkLost(snapshot.sequence);
  }
  void Obey(SequenceReport&& report) {
    if (connected_) return link()->Report(std::move(report));
    context_.Drop(StoreClientDrop::kReportAway);
  }
  void Obey(PlanAck&& ack) {
    if (connected_) return link()->Acknowledge(std::move(ack));
    context_.Drop(StoreClientDrop::kReportAway);
  }
  void Obey(FinishCommand&& finish) {
    known_.erase(finish.sequence);
    mailbox_.ForgetLost(finish.sequence);
    if (connected_) link()->Finish(finish.sequence);
  }
  void Obey(StopCommand&&) {
    if (!connected_) return stop_.fulfiller->fulfill();
    link()->Flush();
    auto late = timer_.afterDelay(options_.shutdown_deadline.count() * kj::MILLISECONDS);
    tasks_.add(
        link()->Confirm().catch_([](kj::Exception&&) {}).exclusiveJoin(kj::mv(late)).then([this] {
          stop_.fulfiller->fulfill();
        }));
  }

  kj::Promise<void> Tick() {
    const auto heartbeat = connected_ ? link()->heartbeat() : options_.heartbeat;
    const auto tick = std::clamp(heartbeat / 4, kTickMin, kTickMax);
    return timer_.afterDelay(tick.count() * kj::MILLISECONDS).then([this] {
      if (connected_) link()->Tick();
      return Tick();
    });
  }

  // Connects, serves the link until it ends, waits, and again.
  kj::Promise<void> ConnectForever() {
    return kj::evalNow([this] { return ConnectOnce(); })
        .catch_([](kj::Exception&& exception) {
          return std::string(StatusFromException(exception).message());
        })
        .then([this](std::string why) {
          connected_ = false;
          link_ = nullptr;
          SetState(StoreState::kConnecting, why);
          return timer_.afterDelay(NextBackoff().count() * kj::MILLISECONDS);
        })
        .then([this] { return ConnectForever(); });
  }

  // Resolves when the connection has ended, or could not be made, to the reason.
  kj::Promise<std::string> ConnectOnce() {
    const auto handshake_ms =
        std::chrono::duration_cast<std::chrono::milliseconds>(limits::kHandshakeTimeout).count();
    kj::Promise<std::string> late = timer_.afterDelay(handshake_ms * kj::MILLISECONDS).then([] {
      return std::string("the store did not open a session in time");
    });
    // Resolves to an empty text when the session is open.
    return io_.provider->getNetwork()
        .parseAddress(options_.endpoint.c_str())
        .then([](kj::Own<kj::NetworkAddress> address) {
          return address->connect().attach(kj::mv(address));
        })
        .then([this](kj::Own<kj::AsyncIoStream> socket) {
          link_ = kj::heap<Link>(context_, kj::mv(socket));
          ended_ = link()->Ended().fork();
          return link()->Open();
        })
        .then([](std::optional<Refusal> refusal) {
          return refusal.has_value() ? ToString(*refusal) : std::string();
        })
        .exclusiveJoin(kj::mv(late))
        .then([this](std::string why) -> kj::Promise<std::string> {
          if (!why.empty()) return why;
          SessionOpened();
          return ended_.addBranch();
        });
  }

  void SessionOpened() {
    connected_ = true;
    backoff_ = options_.backoff_min;
    // A new session knows nothing: every sequence has to come with a snapshot.
    for (const auto& [sequence, known] : known_) mailbox_.MarkLost(sequence);
    SetState(StoreState::kConnected, "");
  }

  // Doubles, with jitter over its whole upper half: a thousand workers must not come back at once.
  std::chrono::milliseconds NextBackoff() {
    const auto upper = std::max<int64_t>(backoff_.count(), 1);
    backoff_ = std::min(backoff_ * 2, options_.backoff_max);
    std::uniform_int_distribution<int64_t> spread(upper / 2, upper);
    return std::chrono::milliseconds(spread(random_));
  }

  const StoreClientOptions& options_;
  kj::AsyncIoContext io_;
  kj::Timer& timer_;
  Mailbox& mailbox_;
  std::unordered_map<SequenceId, KnownSequence> known_;
  LinkContext context_;
  kj::Own<Link> link_;
  kj::ForkedPromise<std::string> ended_ = nullptr;
  bool connected_ = false;
  WakeQueueReader<Command> reader_;
  std::mt19937_64 random_;
  std::chrono::milliseconds backoff_;
  kj::PromiseFulfillerPair<void> stop_ = kj::newPromiseAndFulfiller<void>();
  kj::TaskSet tasks_;
};

class StoreClient final : public ControlPlane {
 public:
  explicit StoreClient(StoreClientOptions options)
      : options_(std::move(options)),
        clock_(NewSteadyClock()),
        mailbox_(options_.mailbox_plans_max),
        commands_(options_.queue_items_max),
        thread_([this] { RunThread(); }) {}

  ~StoreClient() override {
    commands_.PushAlways(StopCommand{});
    thread_.join();
  }

  StoreState state() const override { return mailbox_.state(); }

  void Register(SequenceSnapshot snapshot) override {
    away_.erase(snapshot.sequence);
    mailbox_.ForgetLost(snapshot.sequence);
    commands_.PushAlways(std::move(snapshot));
  }

  void Report(SequenceReport report) override { PushOrLose(std::move(report)); }
  void Acknowledge(PlanAck ack) override { PushOrLose(std::move(ack)); }

  void Finish(SequenceId sequence) override {
    away_.erase(sequence);
    mailbox_.ForgetLost(sequence);
    commands_.PushAlways(FinishCommand{sequence});
  }

  std::vector<StorePlan> Poll() override { return mailbox_.TakePlans(); }

  std::vector<SequenceId> NeedsSnapshot() override {
    std::vector<SequenceId> lost = mailbox_.TakeLost();
    away_.insert(lost.begin(), lost.end());
    return lost;
  }

  std::optional<StorePlan> AwaitPlan(SequenceId sequence, uint64_t report_number,
                                     std::chrono::milliseconds deadline) override {
    if (away_.contains(sequence)) return std::nullopt;
    return mailbox_.Await(sequence, report_number, deadline);
  }

 private:
  // Until it is registered again, nothing about a sequence the store has lost is worth sending.
  template <typename Item>
  void PushOrLose(Item item) {
    const SequenceId sequence = item.sequence;
    if (state() != StoreState::kConnected || away_.contains(sequence)) {
      return Drop(StoreClientDrop::kReportAway);
    }
    if (commands_.TryPush(std::move(item))) return;
    Drop(StoreClientDrop::kReportQueueFull);
    away_.insert(sequence);
    mailbox_.MarkLost(sequence);
  }

  void Drop(StoreClientDrop drop) {
    if (options_.observer != nullptr) options_.observer->OnDrop(drop, 1);
  }

  void RunThread() {
    const absl::Status status =
        CatchQuietly([this] { Network(options_, *clock_, mailbox_, commands_).Run(); });
    KV_CHECK(status.ok());
  }

  const StoreClientOptions options_;
  const std::unique_ptr<Clock> clock_;
  Mailbox mailbox_;
  WakeQueue<Command> commands_;
  std::unordered_set<SequenceId> away_;  // engine thread: lost, and not yet registered again
  std::thread thread_;
};

}  // namespace

std::string_view Name(StoreClientDrop drop) {
  switch (drop) {
    case StoreClientDrop::kReportAway:
      return "report_away";
    case StoreClientDrop::kReportQueueFull:
      return "report_queue_full";
    case StoreClientDrop::kPlanMailboxFull:
      return "plan_mailbox_full";
    case StoreClientDrop::kPlanDuplicate:
      return "plan_duplicate";
    case StoreClientDrop::kPlanStale:
      return "plan_stale";
    case StoreClientDrop::kPlanInvalid:
      return "plan_invalid";
  }
  return "unknown";
}

std::unique_ptr<ControlPlane> NewStoreClient(StoreClientOptions options) {
  return std::make_unique<StoreClient>(std::move(options));
}

}  // namespace palimpsest
