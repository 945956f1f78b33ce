// SPDX-License-Identifier: Apache-2.0
#include <functional>
#include <limits>
#include <string>

#include "common/policy/classifier.h"
#include "common/policy/policy.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace palimpsest {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(Registry, EveryNameHasADefaultThatWorks) {
  EXPECT_THAT(PolicyNames(), ElementsAre("anticipate", "full", "h2o", "longflow", "random", "rkv",
                                         "thinkv", "window"));
  for (const std::string& name : PolicyNames()) {
    const absl::StatusOr<PolicySpec> spec = DefaultSpec(name);
    ASSERT_TRUE(spec.ok());
    EXPECT_EQ(spec->name, name);
    EXPECT_TRUE(NewPolicy(*spec).ok());
    EXPECT_FALSE(PolicyDescription(name)->empty());
  }
}

TEST(Registry, UnknownNameIsAnsweredWithTheNames) {
  PolicySpec spec;
  spec.name = "thinkv2";
  const absl::Status status = NewPolicy(spec).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()),
            "policy 'thinkv2': expected one of anticipate, full, h2o, longflow, random, rkv, "
            "thinkv, window");
  EXPECT_EQ(DefaultSpec("thinkv2").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(PolicyDescription("").status().code(), absl::StatusCode::kNotFound);
}

TEST(Windows, OfASpecThatNamesNoneFollowFromItsBudget) {
  const auto of = [](uint32_t budget) {
    return WindowTokensOf({.budget_tokens = budget, .window_tokens = 0});
  };
  EXPECT_EQ(of(16), 16);
  EXPECT_EQ(of(255), 16);
  EXPECT_EQ(of(256), 32);
  EXPECT_EQ(of(1000), 112);
  EXPECT_EQ(of(1024), 128);
  EXPECT_EQ(of(1 << 20), 128);
  EXPECT_EQ(WindowTokensOf({.budget_tokens = 1 << 20, .window_tokens = 64}), 64);
}

TEST(Anticipate, HalfOfWhatABudgetHasBeyond128GoesToTheNewest) {
  const auto newest = [](uint32_t budget) {
    const auto policy = *NewPolicy({.name = "anticipate", .budget_tokens = budget});
    return RecentOf(policy->selection(), budget);
  };
  EXPECT_EQ(newest(32), 16);
  EXPECT_EQ(newest(160), 16);
  EXPECT_EQ(newest(162), 17);
  EXPECT_EQ(newest(1024), 448);
  EXPECT_EQ(NewPolicy({.name = "anticipate", .budget_tokens = 31}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Anticipate, ChoosesAtEveryWindowsEndForLanesThatHaveMoreThanTheirs) {
  const auto policy = *NewPolicy({.name = "anticipate", .budget_tokens = 100});
  EXPECT_TRUE(policy->selection().by_share);
  SequenceState state;
  RecordSealed(state, {.token_count = 20, .pinned = true});
  EXPECT_TRUE(policy->Decide(state, {.refresh = true}).anneals.empty())
      << "there is only the prompt";
  for (const uint32_t written : {32, 64, 96, 128}) {
    RecordSealed(state, {.token_count = 32});
    EXPECT_TRUE(policy->Decide(state, {}).empty()) << written;
    EXPECT_THAT(policy->Decide(state, {.refresh = true}).anneals,
                ElementsAre(Anneal{.first_position = 20, .keep = 100}))
        << written;
  }
}

struct Bad {
  const char* name;
  std::function<void(PolicySpec&)> spoil;
  const char* says;
};

class BadSpec : public testing::TestWithParam<Bad> {};

TEST_P(BadSpec, IsRefusedWithFieldValueAndRange) {
  for (const std::string& name : PolicyNames()) {
    PolicySpec spec = *DefaultSpec(name);
    GetParam().spoil(spec);
    const absl::Status status = NewPolicy(spec).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().says));
  }
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

INSTANTIATE_TEST_SUITE_P(
    All, BadSpec,
    testing::Values(
        Bad{"NoBudget", [](PolicySpec& s) { s.budget_tokens = 0; },
            "budget_tokens 0: expected 16 to 16777216"},
        Bad{"HugeBudget", [](PolicySpec& s) { s.budget_tokens = (1u << 24) + 1; },
            "budget_tokens 16777217: expected 16 to"},
        Bad{"SmallWindow", [](PolicySpec& s) { s.window_tokens = 8; },
            "window_tokens 8: expected a multiple of 16 up to 4096, or 0 for what suits the "
            "budget"},
        Bad{"OddWindow", [](PolicySpec& s) { s.window_tokens = 100; }, "window_tokens 100"},
        Bad{"HugeWindow", [](PolicySpec& s) { s.window_tokens = 4112; }, "window_tokens 4112"},
        Bad{"NoSchedule", [](PolicySpec& s) { s.retention = {}; },
            "retention []: expected 1 to 16 strictly falling counts from 4096 to 1"},
        Bad{"ZeroFloor",
            [](PolicySpec& s) {
              s.retention = {64, 0};
            },
            "retention [64, 0]"},
        Bad{"FlatSchedule",
            [](PolicySpec& s) {
              s.retention = {64, 64};
            },
            "retention [64, 64]"},
        Bad{"RisingSchedule",
            [](PolicySpec& s) {
              s.retention = {4, 8};
            },
            "retention [4, 8]"},
        Bad{"HugeSchedule", [](PolicySpec& s) { s.retention = {4097}; }, "retention [4097]"},
        Bad{"LongSchedule",
            [](PolicySpec& s) {
              s.retention.clear();
              for (uint32_t i = 17; i > 0; --i) s.retention.push_back(i);
            },
            "expected 1 to 16"},
        Bad{"NoFormat", [](PolicySpec& s) { s.formats.by_thought[0].v = static_cast<Format>(9); },
            "formats T=9: expected 0 to 4"},
        Bad{"LayersWithoutTheta", [](PolicySpec& s) { s.sparsity_layers = {1}; }, "theta []"},
        Bad{"ThetaWithoutLayers",
            [](PolicySpec& s) {
              s.theta = {0.1f, 0.2f};
            },
            "sparsity_layers []: expected at least one layer"},
        Bad{"OneTheta",
            [](PolicySpec& s) {
              s.sparsity_layers = {1};
              s.theta = {0.5f};
            },
            "theta [0.5]: expected two strictly rising values in [0, 1]"},
        Bad{"EqualTheta",
            [](PolicySpec& s) {
              s.sparsity_layers = {1};
              s.theta = {0.5f, 0.5f};
            },
            "theta [0.5, 0.5]"},
        Bad{"ThetaOutOfRange",
            [](PolicySpec& s) {
              s.sparsity_layers = {1};
              s.theta = {0.5f, 1.5f};
            },
            "theta [0.5, 1.5]"},
        Bad{"ThetaNotANumber",
            [](PolicySpec& s) {
              s.sparsity_layers = {1};
              s.theta = {kNan, 0.5f};
            },
            "theta [nan, 0.5]"},
        Bad{"LayersUnordered",
            [](PolicySpec& s) {
              s.sparsity_layers = {3, 3};
            },
            "sparsity_layers [3, 3]: expected at most 64 strictly rising layers from 0 to 1023"},
        Bad{"LayerOutOfRange", [](PolicySpec& s) { s.sparsity_layers = {1024}; },
            "sparsity_layers [1024]"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(WindowPolicy, NeedsABudgetOfAtLeastItsWindow) {
  PolicySpec spec = *DefaultSpec("window");
  spec.budget_tokens = spec.window_tokens;
  EXPECT_TRUE(NewPolicy(spec).ok());
  spec.budget_tokens = 48;
  const absl::Status status = NewPolicy(spec).status();
  EXPECT_EQ(std::string(status.message()),
            "budget_tokens 48: policy 'window' expected at least window_tokens (64)");
}

TEST(Policies, OnlyACalibratedThinKvWantsSparsity) {
  for (const std::string& name : PolicyNames()) {
    PolicySpec spec = *DefaultSpec(name);
    EXPECT_FALSE((*NewPolicy(spec))->wants_sparsity());
    spec.sparsity_layers = {1};
    spec.theta = {0.5f, 0.6f};
    EXPECT_EQ((*NewPolicy(spec))->wants_sparsity(), name == "thinkv");
  }
}

TEST(Policies, SayALabelAtEveryRefreshAndOnlyThere) {
  for (const std::string& name : PolicyNames()) {
    const auto policy = *NewPolicy(*DefaultSpec(name));
    EXPECT_EQ(policy->Decide({}, {.refresh = true}).next_label, Thought::kReasoning);
    EXPECT_TRUE(policy->Decide({}, {}).empty());
  }
}

PolicySpec TwoLayers() { return {.sparsity_layers = {1, 4}, .theta = {0.25f, 0.75f}}; }

Thought Label(float a, float b) { return Classify(TwoLayers(), std::vector<float>{a, b}); }

TEST(Classifier, OrdersDenseMiddleSparse) {
  EXPECT_EQ(Label(0.0f, 0.25f), Thought::kExecution);
  EXPECT_EQ(Label(0.0f, 0.5f), Thought::kReasoning) << "theta1 itself is R";
  EXPECT_EQ(Label(0.5f, 0.875f), Thought::kReasoning);
  EXPECT_EQ(Label(0.5f, 1.0f), Thought::kTransition) << "theta2 itself is T";
}

TEST(Classifier, TakesWhatItCannotJudgeForReasoning) {
  EXPECT_EQ(Label(kNan, 1.0f), Thought::kReasoning);
  EXPECT_EQ(Label(1.0f, 1.5f), Thought::kReasoning);
  EXPECT_EQ(Label(-0.5f, 0.1f), Thought::kReasoning);
  EXPECT_EQ(Classify(TwoLayers(), std::vector<float>{1.0f}), Thought::kReasoning);
  EXPECT_EQ(Classify(TwoLayers(), {}), Thought::kReasoning);
  EXPECT_EQ(Classify(PolicySpec{}, std::vector<float>{1.0f}), Thought::kReasoning);
}

}  // namespace
}  // namespace palimpsest
