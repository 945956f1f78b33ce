// SPDX-License-Identifier: Apache-2.0
#include "common/policy/calibration.h"

#include <limits>
#include <numeric>

#include "common/policy/calibration_picture.h"
#include "common/policy/policy.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/policy/sparsity_samples.h"

namespace palimpsest {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

const std::vector<Part> kThree = {{.5, .03}, {.7, .03}, {.9, .03}};
const std::vector<Part> kShallowThree = {{.5, .05}, {.7, .05}, {.9, .05}};
const std::vector<Part> kTwo = {{.4, .05}, {.8, .05}};
const std::vector<Part> kOne = {{.6, .05}};

// `prompts` runs of a model whose layers have the given mixtures.
std::vector<SparsityRun> Runs(const std::vector<std::vector<Part>>& layers, uint32_t prompts = 6) {
  std::vector<SparsityRun> runs(prompts);
  uint32_t seed = 1;
  for (SparsityRun& run : runs) {
    for (const auto& layer : layers) run.by_layer.push_back(MixtureSamples(layer, 600, ++seed));
  }
  return runs;
}

TEST(Calibrate, ChoosesThreeModeLayersAndPutsThetaIntoTheValleys) {
  const Calibration result = *Calibrate(Runs({kOne, kThree, kTwo, kThree, kThree, kThree}));
  EXPECT_THAT(result.sparsity_layers, ElementsAre(1, 3, 4, 5));
  ASSERT_EQ(result.theta.size(), 2u);
  EXPECT_NEAR(result.theta[0], 0.6f, 0.01f);
  EXPECT_NEAR(result.theta[1], 0.8f, 0.01f);
  EXPECT_EQ(result.warning, "");
  EXPECT_EQ(result.prompt_count, 6u);
  EXPECT_TRUE(Validate(result).ok());
}

TEST(Calibrate, PrefersDeeperValleys) {
  auto layers = std::vector<std::vector<Part>>(8, kThree);
  for (const size_t shallow : {0, 2, 4, 6}) layers[shallow] = kShallowThree;
  const Calibration result = *Calibrate(Runs(layers));
  EXPECT_THAT(result.sparsity_layers, ElementsAre(1, 3, 5, 7));
  EXPECT_LT(result.layers[0].score, result.layers[1].score);
}

TEST(Calibrate, ThetaMakesASpecThatPoliciesAccept) {
  const Calibration result = *Calibrate(Runs({kThree, kThree, kThree, kThree}));
  PolicySpec spec;
  spec.sparsity_layers = result.sparsity_layers;
  spec.theta = result.theta;
  EXPECT_TRUE((*NewPolicy(spec))->wants_sparsity());
}

TEST(Calibrate, FewerThanFourLayersIsSaid) {
  const Calibration result = *Calibrate(Runs({kOne, kThree, kTwo, kThree}));
  EXPECT_THAT(result.sparsity_layers, ElementsAre(1, 3));
  EXPECT_EQ(result.warning,
            "Only 2 of the 4 wanted layers have three modes in at least 50 % of the prompts: "
            "layer 1, 3.");
}

TEST(Calibrate, TwoModeModelGetsOneClassAndTheDiagnosis) {
  const Calibration result = *Calibrate(Runs({kTwo, kTwo, kTwo, kOne}));
  EXPECT_THAT(result.sparsity_layers, IsEmpty());
  EXPECT_THAT(result.theta, IsEmpty());
  EXPECT_THAT(result.warning, HasSubstr("every token is class R"));
  EXPECT_THAT(result.warning, HasSubstr("one 25 %, two 75 %, three 0 %, more 0 %"));
  EXPECT_THAT(result.warning, HasSubstr("Mostly two modes"));
  EXPECT_TRUE(Validate(result).ok());
}

TEST(Calibrate, LayerCountsByHowManyPromptsShowThreeModes) {
  std::vector<SparsityRun> runs = Runs({kThree}, 2);
  for (SparsityRun& run : Runs({kTwo}, 3)) runs.push_back(std::move(run));
  const Calibration strict = *Calibrate(runs);
  EXPECT_THAT(strict.layers[0].prompts_by_modes, ElementsAre(0, 3, 2, 0));
  EXPECT_DOUBLE_EQ(strict.layers[0].three_mode_share, 0.4);
  EXPECT_THAT(strict.sparsity_layers, IsEmpty()) << "40 % is below the half";
  const Calibration lenient = *Calibrate(runs, {.share_min = 0.0});
  EXPECT_THAT(lenient.sparsity_layers, ElementsAre(0));
}

TEST(Calibrate, HistogramHoldsEveryStep) {
  std::vector<SparsityRun> runs = Runs({kThree, kOne}, 3);
  runs[0].by_layer[0][0] = 1.0f;
  runs[0].by_layer[0][1] = 0.0f;
  const Calibration result = *Calibrate(runs);
  for (const LayerCalibration& layer : result.layers) {
    EXPECT_EQ(std::accumulate(layer.histogram.begin(), layer.histogram.end(), 0u), 1800u);
  }
  EXPECT_EQ(result.layers[0].histogram.front(), 1u);
  EXPECT_EQ(result.layers[0].histogram.back(), 1u + 0u);
}

TEST(Calibrate, ConstantSparsityIsOneModeAndNoFault) {
  const SparsityRun run = {.by_layer = {std::vector<float>(100, 1.0f)}};
  const Calibration result = *Calibrate({run});
  EXPECT_THAT(result.layers[0].prompts_by_modes, ElementsAre(1, 0, 0, 0));
  EXPECT_THAT(result.warning, HasSubstr("Mostly one mode"));
}

std::string ErrorOf(const std::vector<SparsityRun>& runs, const CalibrationSettings& s = {}) {
  return std::string(Calibrate(runs, s).status().message());
}

TEST(Calibrate, RefusesWhatItCannotUseAndSaysWhere) {
  EXPECT_EQ(ErrorOf({}), "no prompts: expected at least one run");
  EXPECT_EQ(ErrorOf({{}}), "prompt 0: no layers");
  auto runs = Runs({kOne, kTwo}, 2);
  runs[1].by_layer[1][7] = 1.25f;
  EXPECT_EQ(ErrorOf(runs), "prompt 1, layer 1, step 7: sparsity 1.25, expected 0 to 1");
  runs[1].by_layer[1][7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(ErrorOf(runs), HasSubstr("step 7: sparsity nan"));
  runs[1].by_layer[1].resize(7);
  EXPECT_EQ(ErrorOf(runs), "prompt 1, layer 1: 7 steps, expected at least 16");
  runs[1].by_layer.pop_back();
  EXPECT_EQ(ErrorOf(runs), "prompt 1: 1 layers, prompt 0 has 2");
}

TEST(Calibrate, RefusesSettingsOutOfRange) {
  const auto runs = Runs({kOne}, 1);
  EXPECT_THAT(ErrorOf(runs, {.layer_count = 0}), HasSubstr("layer_count 0: expected 1 to 64"));
  EXPECT_THAT(ErrorOf(runs, {.prominence = -1}), HasSubstr("prominence -1: expected 0 to 1"));
  EXPECT_THAT(ErrorOf(runs, {.share_min = 2}), HasSubstr("share_min 2"));
  EXPECT_THAT(ErrorOf(runs, {.grid_points = 2}), HasSubstr("grid_points 2"));
  EXPECT_THAT(ErrorOf(runs, {.histogram_bins = 100}), HasSubstr("histogram_bins 100"));
  EXPECT_THAT(ErrorOf(runs, {.steps_min = 1}), HasSubstr("steps_min 1"));
}

TEST(CalibrationPicture, ShowsChosenLayersThresholdsAndKinds) {
  const Calibration result = *Calibrate(Runs({kOne, kThree, kThree, kThree, kThree}));
  const std::string svg = DrawCalibration(result, "a <model> & \"co\"");
  EXPECT_THAT(svg, HasSubstr("a &lt;model&gt; &amp; &quot;co&quot;"));
  for (const char* text : {">Layer 1<", ">Layer 4<", "E: execution", "R: reasoning",
                           "T: transition", "thresholds 0.", "attention sparsity of a step"}) {
    EXPECT_THAT(svg, HasSubstr(text));
  }
  EXPECT_THAT(svg, Not(HasSubstr(">Layer 0<")));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(CalibrationPicture, OfAOneClassModelShowsTheNearestLayersAndTheWarning) {
  const Calibration result = *Calibrate(Runs({kTwo, kOne, kOne, kOne, kOne, kTwo}));
  const std::string svg = DrawCalibration(result, "m");
  EXPECT_THAT(svg, HasSubstr("no three kinds of thought found"));
  EXPECT_THAT(svg, HasSubstr("Mostly"));
  EXPECT_THAT(svg, HasSubstr(">Layer 0<"));
  EXPECT_THAT(svg, HasSubstr(">Layer 5<"));
  EXPECT_THAT(svg, Not(HasSubstr("thresholds")));
}

}  // namespace
}  // namespace palimpsest
