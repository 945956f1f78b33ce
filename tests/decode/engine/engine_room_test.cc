// SPDX-License-Identifier: Apache-2.0
// Pools too small for what is asked of them.
#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "tests/decode/engine/engine_fixture.h"
#include "tests/decode/engine/simulated_store.h"

namespace palimpsest {
namespace {

TEST_F(EngineTest, ARequestThatCanNeverFitIsRefusedAndRunningChainsFinish) {
  const uint64_t small = 2 * ChooseFrameBytes(TinyConfig().cache_shape());
  Make({}, nullptr, small);
  const std::vector<Admission> first = Submit({Request(1, 100)});
  ASSERT_TRUE(first[0].status.ok()) << first[0].status;
  const std::vector<Admission> second = Submit({Request(2, 8000)});
  EXPECT_EQ(second[0].status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(second[0].status.message()), testing::HasSubstr("pool-bytes"));
  RunAll();
  EXPECT_EQ(outcomes_[first[0].request].finished, FinishReason::kLength);
}

TEST_F(EngineTest, ChainsThatDoNotFitTogetherTakeTurns) {
  const uint64_t small = 2 * ChooseFrameBytes(TinyConfig().cache_shape());
  Make({}, nullptr, small);
  std::vector<GenerateRequest> requests;
  for (int seed = 0; seed < 12; ++seed) requests.push_back(Request(seed, 200));
  for (const Admission& admission : Submit(std::move(requests))) {
    ASSERT_TRUE(admission.status.ok()) << admission.status;
  }
  RunAll();
  ASSERT_EQ(outcomes_.size(), 12u);
  for (const auto& [id, outcome] : outcomes_) {
    EXPECT_EQ(outcome.finished, FinishReason::kLength) << outcome.error;
  }
  EXPECT_EQ(engine_->Snapshot().pool.used_bytes, 0u);
}

TEST_F(EngineTest, AFullPoolCostsTokensButEndsNoChain) {
  // The store never answers, so the chains grow past what was reserved for them.
  SimulatedStore store;
  store.answers = false;
  const uint64_t small = 3 * ChooseFrameBytes(TinyConfig().cache_shape());
  Make({}, &store, small);
  std::vector<GenerateRequest> requests;
  for (int seed = 0; seed < 8; ++seed) requests.push_back(Request(seed, 3000, "thinkv", 64));
  Submit(std::move(requests));
  RunAll();
  uint32_t local = 0;
  for (const auto& [id, outcome] : outcomes_) {
    EXPECT_EQ(outcome.finished, FinishReason::kLength) << outcome.error;
    local += outcome.stats.plans_local + outcome.stats.pressure_reliefs;
  }
  EXPECT_GT(local, 0u);
}

}  // namespace
}  // namespace palimpsest
