// SPDX-License-Identifier: Apache-2.0
// The shard's engine without a network and without waiting.
#include "services/kvstore/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/rpc/partition.h"
#include "tests/kvstore/store_fixture.h"

namespace palimpsest {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Code = Refusal::Code;

class EngineTest : public ::testing::Test {
 protected:
  EngineTest() { Restart({.epoch = 7}); }

  void Restart(StoreEngineOptions options) {
    engine_ = std::make_unique<StoreEngine>(options, clock_);
    session_ = Open(1);
  }

  static HelloMessage Hello(uint64_t incarnation) {
    return {.worker_name = "w", .worker_incarnation = incarnation, .heartbeat_ms = 1000};
  }

  SessionId Open(uint64_t incarnation) {
    const auto opened = engine_->Open(Hello(incarnation));
    return std::get<SessionGrant>(opened).session;
  }

  Code OpenRefused(const HelloMessage& hello) {
    return std::get<Refusal>(engine_->Open(hello)).code;
  }

  SnapshotMessage Snapshot(uint64_t sequence, const LocalSequence& local, uint64_t report = 0,
                           uint64_t plan = 0) {
    return {.sequence = sequence,
            .tenant = "acme",
            .policy = local.spec(),
            .state = local.state(),
            .last_report = report,
            .last_plan = plan};
  }

  Stamp Register(const SnapshotMessage& snapshot) {
    return std::get<Stamp>(engine_->Register(session_, snapshot));
  }

  static ReportMessage Report(const Stamp& stamp, uint64_t number, const Boundary& boundary) {
    ReportMessage report;
    report.stamp = stamp;
    report.number = number;
    report.sealed = {boundary.sealed};
    report.refresh = boundary.refresh;
    report.sparsity = boundary.sparsity;
    report.wants_answer = true;
    return report;
  }

  PlanBatchMessage Send(const ReportMessage& report) {
    engine_->Report(session_, report);
    return engine_->TakeOutput(session_);
  }

  void Ack(const PlanMessage& plan, std::vector<Anneal> applied) {
    AckMessage ack;
    ack.stamp = plan.stamp;
    ack.plan_number = plan.plan_number;
    ack.applied = std::move(applied);
    ack.lag_ns = 1000;
    engine_->Acknowledge(session_, ack);
  }

  // Plays until a plan has anneals. Acknowledges those before, not that one.
  PlanMessage PlayUntilAnneals(const Stamp& stamp, LocalSequence& local, uint64_t& number) {
    for (int i = 0; i < 200; ++i) {
      const PlanBatchMessage batch = Send(Report(stamp, ++number, local.Next()));
      EXPECT_THAT(batch.plans, SizeIs(1));
      local.Apply(batch.plans[0].plan);
      if (!batch.plans[0].plan.anneals.empty()) return batch.plans[0];
    }
    ADD_FAILURE() << "no plan had anneals";
    return {};
  }

  FakeClock clock_;
  std::unique_ptr<StoreEngine> engine_;
  SessionId session_ = 0;
};

TEST_F(EngineTest, AnswersInLockstepEqualThePolicyRunLocally) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    LocalSequence local(seed);
    const Stamp stamp = Register(Snapshot(seed, local));
    for (uint64_t number = 1; number <= 200; ++number) {
      const Boundary boundary = local.Next();
      const Plan expected = local.Decide(boundary);
      const PlanBatchMessage batch = Send(Report(stamp, number, boundary));
      ASSERT_THAT(batch.plans, SizeIs(1));
      ASSERT_EQ(batch.plans[0].plan, expected);
      ASSERT_EQ(batch.plans[0].plan_number, number);
      ASSERT_EQ(batch.plans[0].report_number, number);
      Ack(batch.plans[0], local.Apply(expected));
      ASSERT_EQ(engine_->Find(session_, stamp.handle)->state, local.state());
    }
  }
  EXPECT_EQ(engine_->counters().acks_disagreeing, 0u);
  EXPECT_EQ(engine_->plans_unacknowledged(), 0u);
}

TEST_F(EngineTest, ADuplicateReportChangesNothingAndIsCounted) {
  LocalSequence local(1);
  const Stamp stamp = Register(Snapshot(1, local));
  const ReportMessage report = Report(stamp, 1, local.Next());
  EXPECT_THAT(Send(report).plans, SizeIs(1));
  const SequenceState before = engine_->Find(session_, stamp.handle)->state;
  EXPECT_TRUE(Send(report).empty());
  EXPECT_EQ(engine_->Find(session_, stamp.handle)->state, before);
  EXPECT_EQ(engine_->counters().reports_duplicate, 1u);
}

TEST_F(EngineTest, ANumberUsedAgainWithOtherContentIsAConflict) {
  LocalSequence local(1);
  const Stamp stamp = Register(Snapshot(1, local));
  ReportMessage report = Report(stamp, 1, local.Next());
  Send(report);
  report.sealed[0].token_count += 16;
  const PlanBatchMessage batch = Send(report);
  ASSERT_THAT(batch.refusals, SizeIs(1));
  EXPECT_EQ(batch.refusals[0].refusal.code, Code::kConflict);
  EXPECT_EQ(engine_->Find(session_, stamp.handle)->state, local.state());
}

TEST_F(EngineTest, AGapStopsPlanningUntilASnapshotComes) {
  LocalSequence local(1);
  const Stamp stamp = Register(Snapshot(1, local));
  Send(Report(stamp, 1, local.Next()));
  local.Next();  // report 2 is lost
  PlanBatchMessage batch = Send(Report(stamp, 3, local.Next()));
  EXPECT_THAT(batch.plans, IsEmpty());
  EXPECT_THAT(batch.needs_snapshot, ElementsAre(stamp.handle));
  EXPECT_EQ(engine_->counters().report_gaps, 1u);
  EXPECT_TRUE(Send(Report(stamp, 4, local.Next())).empty());  // asked once, planned never
  EXPECT_EQ(engine_->sequences_needing_snapshot(), 1u);

  const Stamp again = Register(Snapshot(1, local, 4, 1));
  EXPECT_NE(again.handle, stamp.handle);
  EXPECT_EQ(engine_->Find(session_, stamp.handle), nullptr);
  EXPECT_EQ(engine_->sequence_count(), 1u);
  batch = Send(Report(again, 5, local.Next()));
  ASSERT_THAT(batch.plans, SizeIs(1));
  EXPECT_EQ(batch.plans[0].plan_number, 2u);  // numbers go on rising
}

TEST_F(EngineTest, HostileNumbersAreInvalidAndTheSessionEndsAtTheLastAllowedOffence) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<std::vector<float>> hostile = {
      {nan, 0.5f}, {0.5f, infinity},  {-infinity, 0.5f}, {-0.001f, 0.5f}, {0.5f, 1.001f}, {0.5f},
      {},          {0.1f, 0.2f, 0.3f}};
  LocalSequence local(1);
  const SnapshotMessage snapshot = Snapshot(1, local);
  for (uint32_t offence = 1; offence <= limits::kInvalidReportsMax; ++offence) {
    ASSERT_EQ(engine_->session_count(), 1u) << offence;
    const Stamp stamp = Register(snapshot);
    ReportMessage report = Report(stamp, 1, {.sealed = {.token_count = 16}});
    report.refresh = true;
    report.sparsity = hostile[offence % hostile.size()];
    const PlanBatchMessage batch = Send(report);
    EXPECT_THAT(batch.plans, IsEmpty());
    EXPECT_EQ(engine_->counters().reports_invalid, offence);
    if (offence < limits::kInvalidReportsMax) {
      ASSERT_THAT(batch.refusals, SizeIs(1));
      EXPECT_EQ(batch.refusals[0].refusal.code, Code::kInvalid);
      EXPECT_TRUE(engine_->Find(session_, stamp.handle)->state.segments.empty());
    }
  }
  EXPECT_EQ(engine_->session_count(), 0u);
  EXPECT_EQ(engine_->sequence_count(), 0u);
  const auto ended = engine_->TakeEnded();
  ASSERT_THAT(ended, SizeIs(1));
  EXPECT_EQ(ended[0].reason.code, Code::kOffences);
}

TEST_F(EngineTest, ImpossibleSealingsAreInvalid) {
  const std::vector<SealedTokens> impossible = {
      {.token_count = 0},
      {.token_count = limits::kPositionMax + 1},
      {.token_count = std::numeric_limits<uint32_t>::max()},
      {.token_count = 16, .label = static_cast<Thought>(9)},
      {.token_count = limits::kPromptTokensMax + 1, .pinned = true}};
  LocalSequence local(1);
  for (const SealedTokens& sealed : impossible) {
    const Stamp stamp = Register(Snapshot(1, local));
    const uint64_t before = engine_->counters().reports_invalid;
    EXPECT_THAT(Send(Report(stamp, 1, {.sealed = sealed})).plans, IsEmpty());
    EXPECT_EQ(engine_->counters().reports_invalid, before + 1);
  }
}

TEST_F(EngineTest, AnotherEpochIsRefusedWithTheCurrentOneAndChangesNothing) {
  LocalSequence local(1);
  const Stamp stamp = Register(Snapshot(1, local));
  const Boundary boundary = local.Next();
  for (const uint64_t epoch : {uint64_t{0}, uint64_t{6}, uint64_t{8}, ~uint64_t{0}}) {
    Stamp other = stamp;
    other.epoch = epoch;
    const PlanBatchMessage batch = Send(Report(other, 1, boundary));
    ASSERT_THAT(batch.refusals, SizeIs(1));
    EXPECT_EQ(batch.refusals[0].refusal.code, Code::kStaleEpoch);
    EXPECT_EQ(batch.refusals[0].refusal.value, 7u);
    EXPECT_THAT(batch.plans, IsEmpty());
  }
  EXPECT_EQ(engine_->Find(session_, stamp.handle)->last_report, 0u);
  EXPECT_EQ(engine_->session_count(), 1u);
}

TEST_F(EngineTest, UnknownReleasedAndForeignHandlesGetTheSameAnswer) {
  LocalSequence local(1);
  const SessionId other = Open(2);
  const Stamp foreign = std::get<Stamp>(engine_->Register(other, Snapshot(9, local)));
  // Handles count from 1 in each session, so the foreign one is unknown here.
  const Stamp released = Register(Snapshot(1, local));
  engine_->Release(session_, released.handle);
  std::vector<std::string> answers;
  for (const uint32_t handle : {foreign.handle, released.handle, 4711u, 0u}) {
    Stamp stamp = foreign;
    stamp.handle = handle;
    const PlanBatchMessage batch = Send(Report(stamp, 1, {.sealed = {.token_count = 16}}));
    ASSERT_THAT(batch.refusals, SizeIs(1));
    answers.push_back(ToString(batch.refusals[0].refusal));
  }
  for (const std::string& answer : answers) EXPECT_EQ(answer, answers[0]);
  EXPECT_NE(engine_->Find(other, foreign.handle), nullptr);
  EXPECT_EQ(engine_->Find(other, foreign.handle)->last_report, 0u);
}

TEST_F(EngineTest, ASessionSilentForThreeHeartbeatsIsClosedAndItsSequencesAreFree) {
  LocalSequence local(1);
  for (uint64_t i = 0; i < 10; ++i) Register(Snapshot(i, local));
  const SessionId lively = Open(2);
  for (int i = 0; i < 3; ++i) {
    clock_.Advance(milliseconds(1000));
    engine_->Heard(lively);
    engine_->Expire();
    ASSERT_EQ(engine_->session_count(), 2u);
  }
  clock_.Advance(milliseconds(1));
  engine_->Expire();
  EXPECT_EQ(engine_->session_count(), 1u);
  EXPECT_EQ(engine_->sequence_count(), 0u);
  EXPECT_EQ(engine_->counters().sessions_expired, 1u);
  EXPECT_EQ(engine_->counters().sequences_freed, 10u);
  const auto ended = engine_->TakeEnded();
  ASSERT_THAT(ended, SizeIs(1));
  EXPECT_EQ(ended[0].session, session_);
  EXPECT_EQ(ended[0].reason.code, Code::kExpired);
  // A zombie's late messages find nothing.
  engine_->Report(session_, Report({.handle = 1, .partition = 0, .epoch = 7}, 1, local.Next()));
  EXPECT_TRUE(engine_->TakeOutput(session_).empty());
}

TEST_F(EngineTest, PlansNotYetTakenAreMergedIntoOne) {
  LocalSequence local(3);
  const Stamp stamp = Register(Snapshot(1, local));
  for (uint64_t number = 1; number <= 100; ++number) {
    const Boundary boundary = local.Next();
    engine_->Report(session_, Report(stamp, number, boundary));
    local.Apply(local.Decide(boundary));
  }
  const PlanBatchMessage batch = engine_->TakeOutput(session_);
  ASSERT_THAT(batch.plans, SizeIs(1));
  EXPECT_EQ(batch.plans[0].report_number, 100u);
  EXPECT_EQ(engine_->counters().plans_coalesced, 99u);
  EXPECT_FALSE(engine_->HasOutput(session_));
  // The one plan brings a worker that saw none to where the hundred would have.
  SequenceState late;
  LocalSequence again(3);
  for (const Segment& segment : local.state().segments) {
    Segment fresh = segment;
    fresh.live_count = segment.token_count;
    fresh.demotions = 0;
    late.segments.push_back(fresh);
  }
  for (const Anneal& anneal : batch.plans[0].plan.anneals) {
    ASSERT_TRUE(RecordAnneal(late, anneal).ok());
  }
  EXPECT_EQ(late, local.state());
}

TEST_F(EngineTest, UnacknowledgedPlansAreBoundedAndTheRestWaits) {
  Restart({.epoch = 7, .unacknowledged_plans_max = 2});
  LocalSequence local(5);
  const Stamp stamp = Register(Snapshot(1, local));
  std::vector<PlanMessage> taken;
  for (uint64_t number = 1; number <= 300; ++number) {
    const PlanBatchMessage batch = Send(Report(stamp, number, local.Next()));
    for (const PlanMessage& plan : batch.plans) {
      if (!plan.plan.anneals.empty()) taken.push_back(plan);
    }
    if (!batch.plans.empty()) local.Apply(batch.plans[0].plan);
  }
  ASSERT_THAT(taken, SizeIs(2));
  EXPECT_EQ(engine_->plans_unacknowledged(), 2u);
  Ack(taken[0], taken[0].plan.anneals);
  EXPECT_TRUE(engine_->HasOutput(session_));  // the merged rest
  EXPECT_THAT(engine_->TakeOutput(session_).plans, SizeIs(1));
}

TEST_F(EngineTest, AcknowledgementsAreIdempotent) {
  LocalSequence local(1);
  const Stamp stamp = Register(Snapshot(1, local));
  uint64_t number = 0;
  const PlanMessage plan = PlayUntilAnneals(stamp, local, number);
  Ack(plan, plan.plan.anneals);
  const SequenceState after = engine_->Find(session_, stamp.handle)->state;
  for (int i = 0; i < 5; ++i) Ack(plan, plan.plan.anneals);
  EXPECT_EQ(engine_->Find(session_, stamp.handle)->state, after);
  EXPECT_EQ(engine_->counters().plans_acknowledged, 1u);
  EXPECT_EQ(engine_->counters().acks_duplicate, 5u);
}

TEST_F(EngineTest, AnAcknowledgementThatDisagreesLeadsToASnapshot) {
  LocalSequence local(1);
  const Stamp stamp = Register(Snapshot(1, local));
  uint64_t number = 0;
  const PlanMessage plan = PlayUntilAnneals(stamp, local, number);
  std::vector<Anneal> applied = plan.plan.anneals;
  applied[0].keep += 1;
  Ack(plan, applied);
  EXPECT_EQ(engine_->counters().acks_disagreeing, 1u);
  EXPECT_THAT(engine_->TakeOutput(session_).needs_snapshot, ElementsAre(stamp.handle));
}

TEST_F(EngineTest, AnAcknowledgementOfAPlanNeverSentIsAnOffence) {
  LocalSequence local(1);
  const Stamp stamp = Register(Snapshot(1, local));
  AckMessage ack;
  ack.stamp = stamp;
  ack.plan_number = 99;
  engine_->Acknowledge(session_, ack);
  const PlanBatchMessage batch = engine_->TakeOutput(session_);
  ASSERT_THAT(batch.refusals, SizeIs(1));
  EXPECT_EQ(batch.refusals[0].refusal.code, Code::kInvalid);
}

TEST_F(EngineTest, ANewerSessionOfTheSameIncarnationSupersedesTheOld) {
  LocalSequence local(1);
  Register(Snapshot(1, local));
  const SessionId newer = Open(1);
  EXPECT_NE(newer, session_);
  EXPECT_EQ(engine_->sequence_count(), 0u);
  const auto ended = engine_->TakeEnded();
  ASSERT_THAT(ended, SizeIs(1));
  EXPECT_EQ(ended[0].reason.code, Code::kSuperseded);
}

TEST_F(EngineTest, HelloIsChecked) {
  HelloMessage hello = Hello(5);
  hello.protocol_version = 0;
  EXPECT_EQ(OpenRefused(hello), Code::kUnsupportedVersion);
  hello = Hello(0);
  EXPECT_EQ(OpenRefused(hello), Code::kInvalid);
  for (const char* name : {"", "../etc", "a b", "a\nb", "\xf0\x9f\x98\x80"}) {
    hello = Hello(5);
    hello.worker_name = name;
    EXPECT_EQ(OpenRefused(hello), Code::kInvalid) << name;
  }
  for (const uint32_t heartbeat_ms : {0u, 9u, 60001u, ~0u}) {
    hello = Hello(5);
    hello.heartbeat_ms = heartbeat_ms;
    EXPECT_EQ(OpenRefused(hello), Code::kInvalid) << heartbeat_ms;
  }
}

TEST_F(EngineTest, ANewerWorkerIsWelcomeAndTheLongerHeartbeatIsAgreed) {
  HelloMessage hello = Hello(5);
  hello.protocol_version = 99;
  hello.heartbeat_ms = 5000;
  EXPECT_EQ(std::get<SessionGrant>(engine_->Open(hello)).heartbeat_ms, 5000u);
  hello = Hello(6);
  hello.heartbeat_ms = 10;
  EXPECT_EQ(std::get<SessionGrant>(engine_->Open(hello)).heartbeat_ms, 1000u);
}

TEST_F(EngineTest, ACredentialIsAskedForWhereOneIsSet) {
  engine_ = std::make_unique<StoreEngine>(StoreEngineOptions{.credential = "sesame"}, clock_);
  for (const char* wrong : {"", "sesam", "sesame ", "Sesame"}) {
    HelloMessage hello = Hello(1);
    hello.credential = wrong;
    EXPECT_EQ(OpenRefused(hello), Code::kUnauthorized) << wrong;
    EXPECT_TRUE(std::holds_alternative<Refusal>(engine_->Status({.credential = wrong})));
  }
  HelloMessage hello = Hello(1);
  hello.credential = "sesame";
  EXPECT_TRUE(std::holds_alternative<SessionGrant>(engine_->Open(hello)));
}

TEST_F(EngineTest, RegistrationsBeyondTheBoundAreRefusedWithATimeToTryAgain) {
  Restart({.sequences_max = 3});
  LocalSequence local(1);
  for (uint64_t i = 0; i < 3; ++i) Register(Snapshot(i, local));
  const auto refused = engine_->Register(session_, Snapshot(3, local));
  EXPECT_EQ(std::get<Refusal>(refused).code, Code::kLimit);
  EXPECT_GT(std::get<Refusal>(refused).retry_after_ms, 0u);
  Register(Snapshot(2, local));  // replacing one takes no room
  engine_->Release(session_, 1);
  Register(Snapshot(3, local));
  EXPECT_EQ(engine_->sequence_count(), 3u);
}

TEST_F(EngineTest, BadSnapshotsAreRefusedWithTheReason) {
  LocalSequence local(1);
  SnapshotMessage bad = Snapshot(1, local);
  bad.tenant = "a/../b";
  EXPECT_EQ(std::get<Refusal>(engine_->Register(session_, bad)).code, Code::kInvalid);
  bad = Snapshot(1, local);
  bad.policy.name = "nonesuch";
  EXPECT_EQ(std::get<Refusal>(engine_->Register(session_, bad)).code, Code::kInvalid);
  bad = Snapshot(1, local);
  bad.state.segments = {{.first_position = 0, .token_count = 16, .live_count = 17}};
  EXPECT_EQ(std::get<Refusal>(engine_->Register(session_, bad)).code, Code::kInvalid);
  bad = Snapshot(1, local);
  bad.last_report = ~uint64_t{0};
  EXPECT_EQ(std::get<Refusal>(engine_->Register(session_, bad)).code, Code::kInvalid);
  EXPECT_EQ(engine_->sequence_count(), 0u);
}

TEST_F(EngineTest, DrainingRefusesWhatIsNewAndServesWhatIsThere) {
  LocalSequence local(1);
  const Stamp stamp = Register(Snapshot(1, local));
  engine_->Drain();
  EXPECT_EQ(OpenRefused(Hello(9)), Code::kDraining);
  EXPECT_EQ(std::get<Refusal>(engine_->Register(session_, Snapshot(2, local))).code,
            Code::kDraining);
  EXPECT_THAT(Send(Report(stamp, 1, local.Next())).plans, SizeIs(1));
}

TEST_F(EngineTest, StatusListsEverySequenceOnceByPages) {
  LocalSequence local(1);
  for (uint64_t i = 0; i < 25; ++i) {
    SnapshotMessage snapshot = Snapshot(i, local);
    if (i % 5 == 0) snapshot.tenant = "other";
    Register(snapshot);
  }
  std::vector<uint64_t> seen;
  StatusQuery query = {.sequences_max = 7};
  do {
    const auto status = std::get<StoreStatus>(engine_->Status(query));
    EXPECT_LE(status.sequences.size(), 7u);
    for (const SequenceStatus& sequence : status.sequences) seen.push_back(sequence.sequence);
    query.cursor = status.next_cursor;
  } while (query.cursor != 0);
  ASSERT_THAT(seen, SizeIs(25));
  for (uint64_t i = 0; i < 25; ++i) EXPECT_EQ(seen[i], i);
  const auto status =
      std::get<StoreStatus>(engine_->Status({.sequences_max = 100, .tenant = "other"}));
  EXPECT_THAT(status.sequences, SizeIs(5));
  ASSERT_THAT(status.tenants, SizeIs(2));
  EXPECT_EQ(status.tenants[0].name, "acme");
  EXPECT_EQ(status.tenants[0].count, 20u);
  EXPECT_EQ(status.partitions_owned, kPartitionCount);
}

TEST(PartitionTest, TheHashIsTheOneTheProtocolDescribes) {
  // Worked out by hand-written Python from the schema's words.
  EXPECT_EQ(PartitionOf("", 0), 901);
  EXPECT_EQ(PartitionOf("acme", 1), 640);
  EXPECT_EQ(PartitionOf("default", 0x0123456789abcdef), 998);
}

TEST(PartitionTest, SequencesSpreadOverAllPartitions) {
  std::vector<int> counts(kPartitionCount);
  for (uint64_t i = 0; i < 102400; ++i) ++counts[PartitionOf("acme", i)];
  const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
  EXPECT_GT(*least, 40);
  EXPECT_LT(*most, 180);
}

}  // namespace
}  // namespace palimpsest
