// SPDX-License-Identifier: Apache-2.0
// Fleets of chains with a pretended past, on the CPU backend: what is pretended is what the engine
// believes to have done.
#include "bench/fleet/fleet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "bench/fleet/policies.h"
#include "kernels/cpu/cpu_backend.h"
#include "services/decode/model/cpu_model.h"
#include "tests/decode/engine/tiny_config.h"

namespace palimpsest::bench {
namespace {

constexpr uint32_t kBatchMax = 24;

class FleetTest : public testing::Test {
 protected:
  void Make(uint64_t pool_bytes) {
    fleet_.reset();
    model_ = *NewSyntheticCpuModel(TinyConfig(), 1, {.rows_max = 128, .logit_rows_max = kBatchMax});
    const CacheShape shape = model_->config().cache_shape();
    PagePool pool = *PagePool::Create({.shape = shape, .pool_bytes = pool_bytes});
    auto backend = *NewCpuBackend({.shape = shape,
                                   .query_heads = model_->config().query_heads,
                                   .pool_bytes = pool.capacity_bytes(),
                                   .open_groups = kBatchMax,
                                   .rows_max = 128},
                                  1);
    const auto writer = [this](const PretendBackend& recorded) {
      sealed_live_.clear();
      for (uint32_t s = 0; s < kBatchMax; ++s) {
        const SlotRecord& record = recorded.record(s);
        if (record.live_tokens() > 0) sealed_live_.push_back(record.live_tokens());
        CheckPages(record);
      }
      return absl::OkStatus();
    };
    fleet_ = std::make_unique<Fleet>(model_.get(), std::move(backend), std::move(pool), kBatchMax,
                                     writer);
  }

  // No token lies in two slots.
  static void CheckPages(const SlotRecord& record) {
    std::vector<uint32_t> positions;
    for (const Thought thought : kThoughts) {
      const std::vector<uint32_t>& slots = record.positions[Index(thought)];
      EXPECT_EQ(slots.size(), record.pages[Index(thought)].size() * kSlotsPerPage);
      std::copy_if(slots.begin(), slots.end(), std::back_inserter(positions),
                   [](uint32_t position) { return position != kDeadSlot; });
    }
    std::sort(positions.begin(), positions.end());
    EXPECT_EQ(std::adjacent_find(positions.begin(), positions.end()), positions.end());
  }

  static FleetOptions ThinKv(uint32_t batch) {
    FleetOptions options{.policy = *DefaultSpec("thinkv"), .batch = batch, .tokens = 4096};
    options.policy.budget_tokens = 256;
    options.policy.sparsity_layers = {0, 1};
    options.policy.theta.assign(std::begin(kFleetTheta), std::end(kFleetTheta));
    return options;
  }

  std::unique_ptr<Model> model_;
  std::unique_ptr<Fleet> fleet_;
  std::vector<uint32_t> sealed_live_;  // of each chain, as pretended
};

TEST_F(FleetTest, PretendedPagesHoldWhatTheEngineCounts) {
  Make(64 << 20);
  ASSERT_EQ(fleet_->Start(ThinKv(16)), absl::OkStatus());
  ASSERT_EQ(sealed_live_.size(), 16u);
  std::this_thread::sleep_for(std::chrono::milliseconds(60));  // snapshots are 50 ms apart
  ASSERT_EQ(fleet_->Step(), absl::OkStatus());
  const FleetState state = fleet_->State();
  double pretended = 0;
  for (const uint32_t live : sealed_live_) pretended += live / 16.0;
  // The engine counts the open groups too, 1 to 16 tokens each, and has gone a step further.
  EXPECT_GE(state.live_tokens_mean, pretended);
  EXPECT_LE(state.live_tokens_mean, pretended + 17);
  EXPECT_NEAR(state.tokens_mean, 2048 + 16, 64);
  EXPECT_LT(state.live_tokens_mean, 400) << "the budget does its work";
  EXPECT_EQ(fleet_->Stop(), absl::OkStatus());
}

TEST_F(FleetTest, AFleetGoesOnForRealAndCanBeReplaced) {
  Make(64 << 20);
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(fleet_->Start(ThinKv(4)), absl::OkStatus());
    for (int step = 0; step < 40; ++step) ASSERT_EQ(fleet_->Step(), absl::OkStatus());
    ASSERT_EQ(fleet_->Stop(), absl::OkStatus());
  }
}

TEST_F(FleetTest, TheLargestBatchIsWhatTheFullCacheLeavesRoomFor) {
  const CacheShape shape = TinyConfig().cache_shape();
  // Room for 10 chains of 2,048 tokens, the mean age.
  Make(10 * 2048 * MakePageLayout(shape, {}).page_bytes / kSlotsPerPage);
  FleetOptions options{.policy = *DefaultSpec("full"), .tokens = 4096, .steps = 16};
  options.policy.formats = ClassFormats::Uniform({});
  const absl::StatusOr<uint32_t> batch = fleet_->LargestBatch(options);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_GE(*batch, 8u);
  EXPECT_LE(*batch, 10u);
  options.batch = *batch;
  EXPECT_EQ(fleet_->Start(options), absl::OkStatus());
  EXPECT_EQ(fleet_->Stop(), absl::OkStatus());
  options.batch = 14;
  EXPECT_EQ(fleet_->Start(options).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(fleet_->Stop(), absl::OkStatus());
}

TEST(FleetPoliciesTest, AreChosenByNameAndNeverSilentlyNone) {
  EXPECT_EQ(FleetPolicies(32, {})->size(), 6u);
  const auto chosen = FleetPolicies(32, {"thinkv k=512", "full fp8"});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ((*chosen)[0].spec.budget_tokens, 512u);
  EXPECT_EQ((*chosen)[1].spec.name, "full");
  const absl::Status unknown = FleetPolicies(32, {"full fp8", "h2o"}).status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.message()),
              testing::AllOf(testing::HasSubstr("'h2o'"), testing::HasSubstr("'full bf16', ")));
}

}  // namespace
}  // namespace palimpsest::bench
