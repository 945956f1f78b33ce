// SPDX-License-Identifier: Apache-2.0
// Thousands of random orders of events, held against a model simple enough to be believed.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "services/kvstore/engine.h"
#include "tests/kvstore/store_fixture.h"

namespace palimpsest {
namespace {

// What the engine must know of a sequence.
struct ModelSequence {
  Stamp stamp;
  PolicySpec spec;
  SequenceState state;
  uint64_t last_report = 0;
  uint64_t last_plan_seen = 0;
  bool stale = false;
  bool refreshed = true;  // the next tokens start a window
  std::vector<PlanMessage> unacknowledged;
};

struct ModelSession {
  SessionId id = 0;
  std::map<uint64_t, ModelSequence> sequences;  // by the worker's id
};

class Play {
 public:
  explicit Play(uint64_t seed)
      : random_(seed), engine_({.epoch = 7, .unacknowledged_plans_max = 3}, clock_) {}

  void Step() {
    if (sessions_.size() < 3) return Open();
    ModelSession& session = sessions_[Pick(sessions_.size())];
    if (session.sequences.size() < 4) return Register(session, next_sequence_++);
    auto& [id, sequence] = *std::next(session.sequences.begin(), Pick(session.sequences.size()));
    switch (Pick(16)) {
      case 0:
        return Release(session, id);
      case 1:
        return Register(session, id);
      case 2:
        return Close(session);
      case 3:
        return Send(session, sequence, sequence.last_report, true);  // a duplicate
      case 4:
        return Send(session, sequence, sequence.last_report + 1 + Pick(3), true);
      case 5:
        return SendStale(session, sequence);
      case 6:
      case 7:
        return Take(session);
      case 8:
      case 9:
      case 10:
        return Acknowledge(session, sequence);
      default:
        return Send(session, sequence, sequence.last_report + 1, true);
    }
  }

  void Check() {
    size_t count = 0;
    size_t stale = 0;
    for (const ModelSession& session : sessions_) {
      for (const auto& [id, sequence] : session.sequences) {
        const SequenceEntry* entry = engine_.Find(session.id, sequence.stamp.handle);
        ASSERT_NE(entry, nullptr);
        ASSERT_EQ(entry->needs_snapshot, sequence.stale);
        ASSERT_EQ(entry->last_report, sequence.last_report);
        if (!sequence.stale) {
          ASSERT_EQ(entry->state, sequence.state);
        }
        ASSERT_TRUE(Validate(entry->state).ok());
        ASSERT_LE(entry->unacknowledged.size(), 3u);
        ++count;
        stale += sequence.stale ? 1 : 0;
      }
    }
    ASSERT_EQ(engine_.sequence_count(), count);
    ASSERT_EQ(engine_.sequences_needing_snapshot(), stale);
    const StoreCounters& c = engine_.counters();
    ASSERT_EQ(c.sequences_registered - c.sequences_freed, count);
    ASSERT_EQ(c.reports_accepted, accepted_);
    ASSERT_EQ(c.acks_disagreeing, 0u);
  }

 private:
  size_t Pick(size_t count) { return random_() % count; }

  void Open() {
    const auto opened = engine_.Open({.worker_name = "w", .worker_incarnation = ++incarnation_});
    sessions_.push_back({.id = std::get<SessionGrant>(opened).session, .sequences = {}});
  }

  void Close(ModelSession& session) {
    engine_.Close(session.id);
    sessions_.erase(sessions_.begin() + (&session - sessions_.data()));
  }

  void Release(ModelSession& session, uint64_t id) {
    engine_.Release(session.id, session.sequences[id].stamp.handle);
    session.sequences.erase(id);
  }

  void Register(ModelSession& session, uint64_t id) {
    ModelSequence& sequence = session.sequences[id];
    sequence.spec = TestSpec();
    const auto registered = engine_.Register(session.id, {.sequence = id,
                                                          .tenant = "t",
                                                          .policy = sequence.spec,
                                                          .state = sequence.state,
                                                          .last_report = sequence.last_report,
                                                          .last_plan = sequence.last_plan_seen});
    sequence.stamp = std::get<Stamp>(registered);
    sequence.stale = false;
    sequence.unacknowledged.clear();
  }

  ReportMessage MakeReport(const ModelSequence& sequence, uint64_t number) {
    ReportMessage report;
    report.stamp = sequence.stamp;
    report.number = number;
    report.sealed = {{.token_count = static_cast<uint32_t>(16 * (1 + Pick(2))),
                      .label = static_cast<Thought>(Pick(3)),
                      .starts_window = sequence.refreshed || Pick(2) == 0}};
    report.refresh = Pick(3) == 0;
    if (report.refresh) {
      std::uniform_real_distribution<float> sparsity(0.0f, 1.0f);
      report.sparsity = {sparsity(random_), sparsity(random_)};
    }
    return report;
  }

  void Send(ModelSession& session, ModelSequence& sequence, uint64_t number, bool repeat_last) {
    ReportMessage report = MakeReport(sequence, number);
    if (repeat_last && number == sequence.last_report) {
      const auto last = last_reports_.find(sequence.stamp.handle | session.id << 32);
      if (last == last_reports_.end()) return;  // registered since: nothing to repeat
      report = last->second;
    }
    engine_.Report(session.id, report);
    if (sequence.stale || number <= sequence.last_report) return;
    if (number > sequence.last_report + 1) {
      sequence.stale = true;
      return;
    }
    last_reports_[sequence.stamp.handle | session.id << 32] = report;
    ++accepted_;
    sequence.last_report = number;
    sequence.refreshed = report.refresh;
    for (const SealedTokens& sealed : report.sealed) RecordSealed(sequence.state, sealed);
    const Plan plan =
        (*NewPolicy(sequence.spec))
            ->Decide(sequence.state, {.refresh = report.refresh, .sparsity = report.sparsity});
    for (const Anneal& anneal : plan.anneals) {
      ASSERT_TRUE(RecordAnneal(sequence.state, anneal).ok());
    }
  }

  void SendStale(ModelSession& session, ModelSequence& sequence) {
    ReportMessage report = MakeReport(sequence, sequence.last_report + 1);
    report.stamp.epoch = Pick(2) == 0 ? 6 : 8;
    engine_.Report(session.id, report);
  }

  void Take(ModelSession& session) {
    const PlanBatchMessage batch = engine_.TakeOutput(session.id);
    for (const PlanMessage& plan : batch.plans) {
      for (auto& [id, sequence] : session.sequences) {
        if (sequence.stamp != plan.stamp) continue;
        ASSERT_GT(plan.plan_number, sequence.last_plan_seen);
        ASSERT_LE(plan.report_number, sequence.last_report);
        sequence.last_plan_seen = plan.plan_number;
        if (!plan.plan.anneals.empty()) sequence.unacknowledged.push_back(plan);
      }
    }
    ASSERT_FALSE(engine_.HasOutput(session.id));
  }

  void Acknowledge(ModelSession& session, ModelSequence& sequence) {
    if (sequence.unacknowledged.empty()) return;
    const size_t which = Pick(sequence.unacknowledged.size());  // in any order, at times twice
    const PlanMessage& plan = sequence.unacknowledged[which];
    AckMessage ack;
    ack.stamp = plan.stamp;
    ack.plan_number = plan.plan_number;
    ack.applied = plan.plan.anneals;
    engine_.Acknowledge(session.id, ack);
    if (Pick(4) != 0) {
      sequence.unacknowledged.erase(sequence.unacknowledged.begin() +
                                    static_cast<ptrdiff_t>(which));
    }
  }

  std::mt19937_64 random_;
  FakeClock clock_;
  StoreEngine engine_;
  std::vector<ModelSession> sessions_;
  std::map<uint64_t, ReportMessage> last_reports_;  // by session and handle
  uint64_t next_sequence_ = 1;
  uint64_t incarnation_ = 0;
  uint64_t accepted_ = 0;
};

TEST(EngineModelTest, RandomOrdersOfEventsAgreeWithTheModel) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    Play play(seed);
    for (int step = 0; step < 300; ++step) {
      play.Step();
      if (step % 10 == 0) play.Check();
      if (HasFatalFailure()) return;
    }
    play.Check();
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace palimpsest
