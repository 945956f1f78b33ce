// SPDX-License-Identifier: Apache-2.0
#include "common/rpc/wire.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <gtest/gtest.h>

#include <chrono>

#include "common/base/limits.h"
#include "common/rpc/rpc_connection.h"
#include "common/rpc/rpc_status.h"

namespace palimpsest {
namespace {

TEST(WireTest, ASnapshotComesBackAsItWas) {
  SnapshotMessage snapshot;
  snapshot.sequence = 42;
  snapshot.tenant = "acme";
  snapshot.policy.sparsity_layers = {1, 5};
  snapshot.policy.theta = {0.25f, 0.75f};
  snapshot.state.segments = {{.token_count = 32, .live_count = 32, .pinned = true},
                             {.first_position = 32,
                              .token_count = 16,
                              .live_count = 4,
                              .label = Thought::kTransition,
                              .demotions = 5}};
  snapshot.last_report = 7;
  snapshot.last_plan = 5;
  capnp::MallocMessageBuilder message;
  auto builder = message.initRoot<wire::Snapshot>();
  Write(snapshot, builder);
  const auto read = ReadSnapshot(builder.asReader());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->policy, snapshot.policy);
  EXPECT_EQ(read->state, snapshot.state);
  EXPECT_EQ(read->tenant, "acme");
  EXPECT_EQ(read->last_report, 7u);
  EXPECT_EQ(read->last_plan, 5u);
}

TEST(WireTest, APolicyOfWhichHardlyAnythingIsSaidComesBackAsItWas) {
  for (const PolicyChoice& choice :
       {PolicyChoice{}, PolicyChoice{.budget_tokens = 64}, PolicyChoice{.name = "rkv"},
        PolicyChoice{.window_tokens = 32, .formats = ClassFormats::R4E4T2()},
        ChoiceOf(*DefaultSpec("anticipate"))}) {
    capnp::MallocMessageBuilder message;
    auto builder = message.initRoot<wire::PolicySpec>();
    Write(choice, builder);
    const auto read = ReadPolicyChoice(builder.asReader());
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, choice);
  }
}

TEST(WireTest, ASnapshotsPolicyLeavesNoFormatsOut) {
  capnp::MallocMessageBuilder message;
  auto snapshot = message.initRoot<wire::Snapshot>();
  snapshot.initPolicy().setName("full");
  EXPECT_EQ(ReadSnapshot(snapshot.asReader()).status().message(),
            "policy.formats: expected those of all three classes");
}

TEST(WireTest, APlanComesBackAsItWas) {
  PlanMessage plan;
  plan.stamp = {.handle = 3, .partition = 1023, .epoch = 9};
  plan.plan_number = 4;
  plan.report_number = 6;
  plan.plan.next_label = Thought::kTransition;
  plan.plan.anneals = {{.first_position = 16, .keep = 8, .demotions = 3}};
  plan.echo_sent_at_ns = -5;
  capnp::MallocMessageBuilder message;
  auto builder = message.initRoot<wire::Plan>();
  Write(plan, builder);
  const auto read = ReadPlan(builder.asReader());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->stamp, plan.stamp);
  EXPECT_EQ(read->plan, plan.plan);
  EXPECT_EQ(read->echo_sent_at_ns, -5);
}

TEST(WireTest, EveryRefusalComesBackAsItWas) {
  for (int code = 0; code <= static_cast<int>(Refusal::Code::kOffences); ++code) {
    Refusal refusal = {
        .code = static_cast<Refusal::Code>(code), .text = "why", .retry_after_ms = 3};
    if (code == 1 || code == 4 || code == 5 || code == 6) refusal.value = 17;
    capnp::MallocMessageBuilder message;
    auto builder = message.initRoot<wire::Refusal>();
    Write(refusal, builder);
    EXPECT_EQ(ReadRefusal(builder.asReader()), refusal) << code;
  }
}

TEST(WireTest, ListsAndTextsBeyondTheirBoundAreInvalid) {
  {
    capnp::MallocMessageBuilder message;
    auto report = message.initRoot<wire::Report>();
    report.initSealed(limits::kSegmentsPerSequenceMax + 1);
    EXPECT_EQ(ReadReport(report.asReader()).status().code(), absl::StatusCode::kInvalidArgument);
  }
  {
    capnp::MallocMessageBuilder message;
    auto report = message.initRoot<wire::Report>();
    report.initSparsity(limits::kSparsityLayersMax + 1);
    EXPECT_FALSE(ReadReport(report.asReader()).ok());
  }
  {
    capnp::MallocMessageBuilder message;
    auto snapshot = message.initRoot<wire::Snapshot>();
    snapshot.initTenant(limits::kTextBytesMax + 1);
    EXPECT_FALSE(ReadSnapshot(snapshot.asReader()).ok());
  }
  {
    capnp::MallocMessageBuilder message;
    auto ack = message.initRoot<wire::Ack>();
    ack.initApplied(limits::kAnnealsPerPlanMax + 1);
    EXPECT_FALSE(ReadAck(ack.asReader()).ok());
  }
}

// The schema nests nothing in itself, so depth is no weapon; a list that costs no bytes might be.
TEST(WireTest, AListOfHalfABillionEmptyStructsIsRefusedBeforeItIsWalked) {
  uint64_t raw[3];
  raw[0] = uint64_t{1} << 48;            // the root: a struct of one pointer
  raw[1] = uint64_t{7} << 32 | 1;        // a list of structs, 0 words of them
  raw[2] = (uint64_t{0x1fffffff} << 2);  // 2^29 - 1 structs without a field
  const auto start = std::chrono::steady_clock::now();
  bool refused = false;
  const absl::Status read = CatchKj([&] {
    const kj::ArrayPtr<const capnp::word> segments[1] = {
        kj::arrayPtr(reinterpret_cast<const capnp::word*>(raw), 3)};
    capnp::SegmentArrayMessageReader reader(kj::arrayPtr(segments, 1), RpcReaderOptions());
    const auto reports = reader.getRoot<wire::ReportBatch>().getReports();
    refused = reports.size() > limits::kReportsPerBatchMax;  // what the server asks first
  });
  EXPECT_TRUE(refused || !read.ok());  // KJ may refuse it by itself
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(100));
}

TEST(WireTest, UnknownEnumerantsAreInvalid) {
  capnp::MallocMessageBuilder message;
  auto report = message.initRoot<wire::Report>();
  report.initSealed(1)[0].setLabel(static_cast<wire::Thought>(77));
  EXPECT_FALSE(ReadReport(report.asReader()).ok());
  auto snapshot = message.initRoot<wire::Snapshot>();
  snapshot.initPolicy().initFormats().initReasoning().setK(static_cast<wire::Format>(9));
  EXPECT_FALSE(ReadSnapshot(snapshot.asReader()).ok());
  EXPECT_FALSE(ReadPolicyChoice(snapshot.asReader().getPolicy()).ok());
}

}  // namespace
}  // namespace palimpsest
