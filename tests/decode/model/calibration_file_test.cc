// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/calibration_file.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/str_replace.h"
#include "common/policy/calibration_picture.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/policy/sparsity_samples.h"

namespace palimpsest {
namespace {

using testing::HasSubstr;

constexpr char kModel[] = "sha256:0123abcd";

CalibrationFile Example(const std::vector<Part>& parts) {
  std::vector<SparsityRun> runs(5);
  uint32_t seed = 1;
  for (SparsityRun& run : runs) {
    for (int layer = 0; layer < 6; ++layer) {
      // Layers differ a little, as a model's do.
      std::vector<Part> own = parts;
      for (Part& part : own) part.deviation *= 0.7 + 0.15 * layer;
      run.by_layer.push_back(MixtureSamples(own, 1200, ++seed));
    }
  }
  return {kModel, *Calibrate(runs)};
}

CalibrationFile ThreeModes() { return Example({{.62, .02}, {.74, .02}, {.74, .02}, {.87, .02}}); }

absl::Status ErrorOf(const std::string& json) { return ParseCalibration(json, kModel).status(); }

TEST(CalibrationFile, ReadsWhatItWrote) {
  for (const CalibrationFile& file : {ThreeModes(), Example({{.4, .05}, {.8, .05}})}) {
    const absl::StatusOr<CalibrationFile> read = ParseCalibration(ToJson(file), kModel);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, file);
  }
}

TEST(CalibrationFile, IsForOneModelOnly) {
  const absl::Status status = ParseCalibration(ToJson(ThreeModes()), "sha256:ffff").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("another model than this one (sha256:ffff)"));
  EXPECT_TRUE(ParseCalibration(ToJson(ThreeModes()), "").ok()) << "no model to compare with";
}

struct Spoiled {
  const char* name;
  std::string from;
  std::string to;
  const char* says;
};

class SpoiledFile : public testing::TestWithParam<Spoiled> {};

TEST_P(SpoiledFile, IsRefusedWithTheFieldsName) {
  const std::string json = ToJson(ThreeModes());
  const std::string spoiled = absl::StrReplaceAll(json, {{GetParam().from, GetParam().to}});
  ASSERT_NE(json, spoiled) << "nothing was spoiled";
  const absl::Status status = ErrorOf(spoiled);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    All, SpoiledFile,
    testing::Values(
        Spoiled{"OtherVersion", "\"version\": 1", "\"version\": 2",
                "calibration: version: 2 is not known here, expected 1"},
        Spoiled{"NegativeVersion", "\"version\": 1", "\"version\": -1",
                "version: expected a whole"},
        Spoiled{"OtherFormat", "palimpsest-calibration", "x", "format: expected"},
        Spoiled{"NoVersion", "\"version\"", "\"versions\"", "version: missing"},
        Spoiled{"UnknownKey", " \"warning\"", " \"extra\": 1,\n \"warning\"", "extra: unknown key"},
        Spoiled{"MissingKey", " \"warning\": \"\",\n", "", "warning: missing"},
        Spoiled{"MissingInLayer", "\"score\"", "\"scores\"", "layers[0].score: missing"},
        Spoiled{"UnknownInSettings", "{\"layer_count\"", "{\"more\":1,\"layer_count\"",
                "settings.more: unknown key"},
        Spoiled{"NoFingerprint", kModel, "", "model_fingerprint: expected 1 to 256 bytes"},
        Spoiled{"TextForNumber", "\"prompt_count\": 5", "\"prompt_count\": \"5\"",
                "prompt_count: expected a whole number"},
        Spoiled{"FractionForCount", "\"prompt_count\": 5", "\"prompt_count\": 5.5",
                "prompt_count: expected a whole number"},
        Spoiled{"HugeNumber", "\"prompt_count\": 5", "\"prompt_count\": 5e999", "not valid JSON"},
        Spoiled{"WrongSum", "\"prompt_count\": 5", "\"prompt_count\": 6",
                "prompts_by_modes sum 5: expected prompt_count 6"},
        Spoiled{"ThetaOutOfRange", "\"theta\": [0", "\"theta\": [1", "theta [1."},
        Spoiled{"OneTheta", "\"theta\": [0", "\"theta\": [0.1,0.2,0",
                "expected two strictly rising"},
        Spoiled{"HugeTheta", "\"theta\": [", "\"theta\": [1e300,", "theta[0]: expected a number"},
        Spoiled{"LayersOutOfRange", "\"sparsity_layers\": [", "\"sparsity_layers\": [9,",
                "sparsity_layers [9, "},
        Spoiled{"ObjectForList", "\"layers\": [", "\"layers\": {}, \"x\": [", "x: unknown key"},
        Spoiled{"BinsThatDoNotFit", "\"histogram_bins\":128", "\"histogram_bins\":64",
                "layers[0].histogram size 128: expected 64"},
        Spoiled{"HugeGrid", "\"grid_points\":513", "\"grid_points\":4294967295",
                "grid_points 4294967295: expected 3 to 65537"},
        Spoiled{"ShortHistogram", "\"histogram\":[0,", "\"histogram\":[",
                "layers[0].histogram size 127: expected 128"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(CalibrationFile, TruncatedAnywhereIsAnErrorNeverACrash) {
  const std::string json = ToJson(ThreeModes());
  for (size_t length = 0; length + 2 < json.size(); length += 97) {
    EXPECT_FALSE(ErrorOf(json.substr(0, length)).ok()) << length;
  }
  for (const char* text : {"", "null", "[]", "1", "{}", "\"x\"", "{\"format\":7}"}) {
    EXPECT_FALSE(ErrorOf(text).ok()) << text;
  }
}

TEST(CalibrationFile, DeepNestingIsAnErrorNeverACrash) {
  EXPECT_FALSE(ErrorOf(std::string(200000, '[')).ok());
}

TEST(CalibrationFile, GoesToDiskAndBack) {
  const std::filesystem::path folder = testing::TempDir();
  const std::string path = (folder / "palimpsest_calibration_test.json").string();
  const CalibrationFile file = ThreeModes();
  ASSERT_TRUE(SaveCalibration(path, file).ok());
  EXPECT_EQ(*LoadCalibration(path, kModel), file);
  EXPECT_FALSE(std::filesystem::exists(path + ".tmp"));
  const absl::Status other = LoadCalibration(path, "sha256:ffff").status();
  EXPECT_EQ(other.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.message()), HasSubstr(path));
  std::filesystem::remove(path);
  EXPECT_EQ(LoadCalibration(path, kModel).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(SaveCalibration("/nowhere/x.json", file).code(), absl::StatusCode::kUnavailable);
}

// PALIMPSEST_PICTURES=<folder> leaves the pictures there, to be looked at.
TEST(CalibrationFile, PicturesCanBeLookedAt) {
  const char* const given = std::getenv("PALIMPSEST_PICTURES");
  const std::filesystem::path folder = given != nullptr ? given : testing::TempDir();
  std::ofstream(folder / "three.json") << ToJson(ThreeModes());
  for (const auto& [name, calibration] :
       {std::pair("three.svg", ThreeModes().calibration),
        std::pair("two.svg", Example({{.4, .05}, {.8, .05}}).calibration)}) {
    const std::string picture = DrawCalibration(calibration, "example-model");
    EXPECT_THAT(picture, testing::StartsWith("<svg"));
    EXPECT_THAT(picture, testing::EndsWith("</svg>\n"));
    EXPECT_TRUE(static_cast<bool>(std::ofstream(folder / name) << picture)) << folder / name;
  }
}

}  // namespace
}  // namespace palimpsest
