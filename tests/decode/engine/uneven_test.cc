// SPDX-License-Identifier: Apache-2.0
// Chains whose lanes share a budget unevenly, through the whole engine with a small random model:
// they keep to their bytes and lanes to their shares, whoever plans, and however late.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/policy/lane_budgets.h"
#include "kernels/cpu/cpu_backend.h"
#include "services/decode/engine/engine.h"
#include "services/decode/model/cpu_model.h"
#include "tests/decode/engine/random_codebook.h"
#include "tests/decode/engine/run_to_end.h"
#include "tests/decode/engine/simulated_store.h"
#include "tests/decode/engine/tiny_config.h"
#include "tests/kernels/forwarding_backend.h"

namespace palimpsest {
namespace {

constexpr uint32_t kBatch = 8;
constexpr uint32_t kBudget = 64;
constexpr std::array<float, 4> kShares = {0.25f, 1.75f, 0.5f, 1.5f};
constexpr std::array<float, 4> kEqualShares = {1.0f, 1.0f, 1.0f, 1.0f};
using Shares = absl::Span<const float>;

// Hands everything on, and looks at what uneven sequences are said to be.
class WatchingBackend final : public ForwardingBackend {
 public:
  struct Seen {
    Shares shares;
    uint64_t uneven_steps = 0, even_steps = 0;  // views, over steps
    uint64_t uneven_anneals = 0;
    uint64_t pages_peak = 0;  // of an uneven sequence
  };
  WatchingBackend(std::unique_ptr<Backend> backend, Seen* seen)
      : ForwardingBackend(std::move(backend)), seen_(seen) {}

  absl::Status BeginStep(absl::Span<const SequenceView> views,
                         absl::Span<const StepRows> rows) override {
    for (const SequenceView& view : views) Look(view);
    return ForwardingBackend::BeginStep(views, rows);
  }
  absl::Status Seal(absl::Span<const SequenceView> views,
                    absl::Span<const SealOrder> orders) override {
    for (const SequenceView& view : views) Look(view);
    return ForwardingBackend::Seal(views, orders);
  }
  absl::Status Anneal(absl::Span<const SequenceView> views,
                      absl::Span<const AnnealOrder> orders) override {
    for (const AnnealOrder& order : orders) {
      if (order.lane_keeps.empty()) continue;
      ++seen_->uneven_anneals;
      EXPECT_FALSE(views[order.sequence].uneven.empty());
      EXPECT_THAT(order.lane_keeps,
                  testing::ElementsAreArray(LaneBudgets(seen_->shares, order.keep)));
    }
    return ForwardingBackend::Anneal(views, orders);
  }

 private:
  void Look(const SequenceView& view) {
    const UnevenLanes& uneven = view.uneven;
    ++(uneven.empty() ? seen_->even_steps : seen_->uneven_steps);
    if (uneven.empty()) return;
    const auto pages = static_cast<uint32_t>(view.pages[Index(Thought::kReasoning)].size());
    seen_->pages_peak = std::max<uint64_t>(seen_->pages_peak, pages);
    std::vector<uint32_t> counts(seen_->shares.size());
    CountBlocks(uneven.even_pages, pages, uneven.round_first, RankLanes(seen_->shares),
                absl::MakeSpan(counts));
    EXPECT_THAT(uneven.block_counts, testing::ElementsAreArray(counts));
  }

  Seen* const seen_;
};

class UnevenChains : public testing::Test {
 protected:
  void Make(EngineOptions options, ControlPlane* control, Shares shares = kShares,
            uint64_t pool_bytes = 16 << 20) {
    engine_.reset();
    tokens_.clear();
    stats_.clear();
    seen_ = {.shares = shares};
    model_ = *NewSyntheticCpuModel(TinyConfig(), 1, {.rows_max = 128, .logit_rows_max = kBatch});
    CacheShape shape = model_->config().cache_shape();
    shape.slot_scores = shape.residue = true;
    PagePool pool = *PagePool::Create({.shape = shape, .pool_bytes = pool_bytes});
    auto codebook = std::make_shared<QueryCodebook>(*RandomCodebook(model_->config(), 16));
    options.lane_shares = codebook->lane_shares = {shares.begin(), shares.end()};
    auto backend = NewCpuBackend({.shape = shape,
                                  .query_heads = model_->config().query_heads,
                                  .pool_bytes = pool.capacity_bytes(),
                                  .open_groups = kBatch,
                                  .rows_max = 128,
                                  .query_window = 8,
                                  .codebook = codebook},
                                 1);
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = NewTimedBackend(std::make_unique<WatchingBackend>(*std::move(backend), &seen_),
                               clock_.get());
    options.batch_max = kBatch;
    engine_ = std::make_unique<Engine>(options, model_.get(), backend_.get(), std::move(pool),
                                       control, clock_.get(), nullptr);
  }

  static GenerateRequest Request(int seed, uint32_t new_tokens,
                                 const std::string& policy = "anticipate") {
    GenerateRequest request;
    for (int i = 0; i < 5 + seed * 7; ++i) request.prompt.push_back((seed * 31 + i * 7) % 128);
    request.max_new_tokens = new_tokens;
    request.sampling = {.temperature = 1.0f, .seed = static_cast<uint64_t>(seed)};
    request.policy = *DefaultSpec(policy);
    request.policy.budget_tokens = kBudget;
    request.policy.formats = ClassFormats::Uniform({Format::kBf16, Format::kBf16});
    return request;
  }

  void Run(std::vector<GenerateRequest> requests) {
    RunToEnd(*engine_, std::move(requests), tokens_, stats_);
  }

  // Chains of several prompts that go far beyond their budget.
  void RunSome(uint32_t count, uint32_t new_tokens) {
    std::vector<GenerateRequest> requests;
    for (uint32_t i = 0; i < count; ++i)
      requests.push_back(Request(static_cast<int>(i), new_tokens));
    Run(std::move(requests));
    for (const auto& [id, text] : tokens_) EXPECT_EQ(text.size(), new_tokens);
  }

  uint32_t LocalPlans() const {
    uint32_t local = 0;
    for (const auto& [id, stats] : stats_) local += stats.plans_local;
    return local;
  }

  std::unique_ptr<Clock> clock_ = NewSteadyClock();
  WatchingBackend::Seen seen_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<TimedBackend> backend_;
  std::unique_ptr<Engine> engine_;
  std::map<RequestId, std::vector<int32_t>> tokens_;
  std::map<RequestId, RequestStats> stats_;
};

TEST_F(UnevenChains, KeepTheirBudgetOnAverageAndTheirBytes) {
  Make({}, nullptr);
  RunSome(6, 400);
  EXPECT_EQ(seen_.even_steps, 0u);
  EXPECT_GT(seen_.uneven_anneals, 6u * 20);
  const uint32_t window = WindowTokensOf(Request(0, 1).policy);
  for (const auto& [id, stats] : stats_) {
    EXPECT_LE(stats.live_tokens_peak, stats.prompt_tokens + kBudget + window + kGroupTokens);
    EXPECT_GE(stats.live_tokens_peak, stats.prompt_tokens + kBudget) << "it was never reached";
    EXPECT_EQ(stats.pressure_reliefs, 0u);
  }
  // The longest prompt has 40 tokens. As many as an even chain would have.
  EXPECT_EQ(seen_.pages_peak, (40 + kBudget + window + 15) / 16);
}

TEST_F(UnevenChains, BytesOfAnEvenChainAreHardlyFewer) {
  const auto bytes = [&](Shares shares) {
    Make({}, nullptr, shares);
    Run({Request(2, 1200)});
    return static_cast<double>(stats_.begin()->second.footprint_byte_steps);
  };
  const double even = bytes({});
  EXPECT_EQ(seen_.uneven_steps, 0u);
  const double uneven = bytes(kShares);
  EXPECT_EQ(seen_.even_steps, 0u);
  EXPECT_GT(uneven, even);
  EXPECT_LT(uneven, 1.05 * even) << "tables of lanes";
}

TEST_F(UnevenChains, OfEqualSharesAreWhatEvenOnesAre) {
  Make({}, nullptr, {});
  RunSome(4, 400);
  EXPECT_EQ(seen_.uneven_steps, 0u);
  const auto even = tokens_;
  const auto even_stats = stats_;
  Make({}, nullptr, kEqualShares);
  RunSome(4, 400);
  EXPECT_EQ(seen_.even_steps, 0u);
  EXPECT_EQ(tokens_, even);
  for (const auto& [id, stats] : stats_) {
    const RequestStats& other = even_stats.at(id);
    EXPECT_EQ(stats.live_token_steps, other.live_token_steps);
    EXPECT_EQ(stats.plan_hash, other.plan_hash);
    EXPECT_LT(stats.footprint_byte_steps, 1.05 * other.footprint_byte_steps) << "tables of lanes";
  }
}

TEST_F(UnevenChains, InLockstepTheStoresPlansAreTheWorkersOwn) {
  Make({}, nullptr);
  RunSome(4, 300);
  const auto alone = tokens_;
  std::map<RequestId, uint64_t> plans;
  for (const auto& [id, stats] : stats_) plans[id] = stats.plan_hash;

  SimulatedStore store;
  Make({.lockstep = true}, &store);
  RunSome(4, 300);
  EXPECT_EQ(tokens_, alone);
  for (const auto& [id, stats] : stats_) EXPECT_EQ(stats.plan_hash, plans[id]);
  EXPECT_EQ(LocalPlans(), 0u);
  EXPECT_TRUE(store.fewer_than_told) << "lanes of small share evict before the mean is full";
}

TEST_F(UnevenChains, PlansThatComeAGroupLateFindRoom) {
  SimulatedStore store;
  store.delay_polls = 20;
  Make({}, &store);
  RunSome(4, 400);
  EXPECT_EQ(LocalPlans(), 0u);
  for (const auto& [id, stats] : stats_) EXPECT_GT(stats.plan_lag_tokens_max, 16u);
}

TEST_F(UnevenChains, AChainWhosePlansComeTooLateMakesItsOwn) {
  SimulatedStore store;
  store.delay_polls = 100;
  Make({}, &store);
  RunSome(4, 400);
  EXPECT_GT(LocalPlans(), 0u);
  EXPECT_GT(store.acknowledgements, 0u) << "and the late ones change nothing";
  EXPECT_EQ(store.registrations, 4u) << "or the store would forget the plans on their way";
  for (const auto& [id, stats] : stats_) EXPECT_EQ(stats.pressure_reliefs, 0u);
}

TEST_F(UnevenChains, AStoreThatNeverAnswersIsDoneWithout) {
  SimulatedStore store;
  store.answers = false;
  Make({}, &store);
  RunSome(4, 400);
  const uint32_t window = WindowTokensOf(Request(0, 1).policy);
  for (const auto& [id, stats] : stats_) {
    // Chosen when the smallest share has no room left, so at windows' ends or a little later.
    EXPECT_GT(stats.plans_local, 300 / (window + 2 * kGroupTokens));
    EXPECT_LT(stats.live_tokens_peak, stats.prompt_tokens + kBudget + window + 3 * kGroupTokens);
    EXPECT_EQ(stats.pressure_reliefs, 0u);
  }
}

TEST_F(UnevenChains, WhenTheStoreGoesAndComesBackChainsGoOn) {
  SimulatedStore store;
  Make({}, &store);
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < 3; ++i) requests.push_back(Request(i, 600));
  engine_->Submit(std::move(requests), [this](GenerateEvent event) {
    if (event.stats.has_value()) stats_[event.request] = *event.stats;
    EXPECT_TRUE(event.error.ok()) << event.error;
  });
  for (int step = 0; *engine_->Step(); ++step) {
    if (step == 200) store.present = StoreState::kConnecting;
    if (step == 400) store.present = StoreState::kConnected;
  }
  ASSERT_EQ(stats_.size(), 3u);
  EXPECT_GT(LocalPlans(), 0u);
  EXPECT_GE(store.registrations, 6u);
}

// A pool in which only one chain's pages can be promised: they take turns, and each is sure of its
// own.
TEST_F(UnevenChains, WhatIsReservedIsEnough) {
  CacheShape shape = TinyConfig().cache_shape();
  shape.slot_scores = shape.residue = true;
  Make({}, nullptr, kShares, 2 * ChooseFrameBytes(shape));
  RunSome(6, 300);
  EXPECT_EQ(stats_.size(), 6u);
}

TEST_F(UnevenChains, ShareABatchWithEvenOnesWhichStayAsTheyAre) {
  const auto run = [&](Shares shares) {
    Make({}, nullptr, shares);
    std::vector<GenerateRequest> requests;
    for (const std::string policy : {"full", "h2o", "anticipate", "random", "rkv", "thinkv"}) {
      requests.push_back(Request(3, 300, policy));
    }
    Run(std::move(requests));
    return tokens_;
  };
  const auto even = run({});
  EXPECT_EQ(seen_.uneven_steps, 0u);
  const auto mixed = run(kShares);
  EXPECT_EQ(seen_.even_steps, 5 * seen_.uneven_steps);
  for (const auto& [id, text] : even) {
    if (id == 3) {
      EXPECT_NE(text, mixed.at(id)) << "anticipate goes by shares";
    } else {
      EXPECT_EQ(text, mixed.at(id));
    }
  }
}

}  // namespace
}  // namespace palimpsest
