// SPDX-License-Identifier: Apache-2.0
// `palimpsest likelihood` as its user has it, with the shipped reasoner as the language model.
#include <stdlib.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace palimpsest::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string Slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<nlohmann::json> Lines(const std::string& text) {
  std::vector<nlohmann::json> lines;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    lines.push_back(nlohmann::json::parse(line));
  }
  return lines;
}

struct Outcome {
  int code = -1;
  std::string out, err;
};

class LikelihoodProcessTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string path = testing::TempDir() + "/likelihood-XXXXXX";
    folder_ = mkdtemp(path.data());
    std::filesystem::create_directory(folder_ + "/texts");
    WriteText("one", "<bos> goal 22 [ 30 11 9 6 ]", 25);
    WriteText("two", "<bos> goal 38 [ 27 26 5 2 ]", 20);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // A text of the reasoner's words; what it says is of no interest here.
  void WriteText(const std::string& name, const std::string& words, int times) const {
    std::ofstream file(folder_ + "/texts/" + name + ".txt");
    for (int i = 0; i < times; ++i) file << words << " ";
  }

  Outcome Palimpsest(const std::string& arguments) const {
    const std::string out = folder_ + "/out", err = folder_ + "/err";
    const int status =
        std::system(absl::StrCat(PALIMPSEST, " ", arguments, " > ", out, " 2> ", err).c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, Slurp(out), Slurp(err)};
  }
  Outcome Likelihood(const std::string& flags) const { return Palimpsest("likelihood " + flags); }

  std::string folder_;
  const std::string common_ = "--model lab/reasoner/model --device cpu --quiet --prompt-tokens 16 ";
};

TEST_F(LikelihoodProcessTest, ARunIsReportedKeptAndTakenUpAgain) {
  const std::string flags = absl::StrCat(common_, "--texts ", folder_, "/texts --results ", folder_,
                                         "/r.jsonl --format json --policy random --budget ");
  const Outcome first = Likelihood(flags + "32");
  ASSERT_EQ(first.code, 0) << first.err;
  const std::vector<nlohmann::json> report = Lines(first.out);
  ASSERT_EQ(report.size(), 2u);
  EXPECT_EQ(report[0]["device"], "cpu");
  EXPECT_THAT(report[0]["texts"], testing::ElementsAre("one", "two"));
  EXPECT_EQ(report[1]["texts"], 2);
  EXPECT_GT(report[1]["kl_mean"].get<double>(), 0.0);
  const std::string kept = Slurp(folder_ + "/r.jsonl");
  EXPECT_EQ(std::count(kept.begin(), kept.end(), '\n'), 2);

  const Outcome again = Likelihood(flags + "32");
  EXPECT_EQ(again.out, first.out);
  EXPECT_EQ(Slurp(folder_ + "/r.jsonl"), kept);

  const Outcome more = Likelihood(flags + "32,64");
  ASSERT_EQ(more.code, 0) << more.err;
  EXPECT_EQ(Lines(more.out)[1], report[1]);
  const std::string longer = Slurp(folder_ + "/r.jsonl");
  EXPECT_EQ(longer.substr(0, kept.size()), kept);
  EXPECT_EQ(std::count(longer.begin(), longer.end(), '\n'), 4);

  const std::string picture = folder_ + "/r.svg";
  const Outcome reported =
      Likelihood(absl::StrCat("--no-run --model lab/reasoner/model --format json --results ",
                              folder_, "/r.jsonl --picture ", picture));
  EXPECT_EQ(reported.out, more.out) << reported.err;
  EXPECT_THAT(Slurp(picture), HasSubstr("<polyline"));
}

TEST_F(LikelihoodProcessTest, LengthsShareAFileAndAreReportedApart) {
  const std::string results = absl::StrCat(" --results ", folder_, "/r.jsonl --format json");
  const std::string flags =
      absl::StrCat(common_, "--texts ", folder_, "/texts --policy random --budget 32", results);
  const Outcome brief = Likelihood(flags + " --text-tokens 80");
  ASSERT_EQ(brief.code, 0) << brief.err;
  const Outcome longer = Likelihood(flags + " --text-tokens 112");
  ASSERT_EQ(longer.code, 0) << longer.err;
  EXPECT_EQ(Lines(brief.out)[0]["tokens"], 2 * 80);
  EXPECT_EQ(Lines(longer.out)[0]["tokens"], 2 * 112);
  EXPECT_EQ(Likelihood(flags + " --text-tokens 80").out, brief.out);

  const Outcome mixed = Likelihood("--no-run" + results);
  EXPECT_EQ(mixed.code, 2);
  EXPECT_THAT(mixed.err, HasSubstr("readings of one that differ in tokens"));
}

TEST_F(LikelihoodProcessTest, ATableNamesThePolicyAndWhatItCost) {
  const Outcome outcome = Likelihood(
      absl::StrCat(common_, "--texts ", folder_, "/texts/one.txt --policy full --formats nvfp4"));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("nvfp4"));
  EXPECT_THAT(outcome.out, HasSubstr("top-1 %"));
  EXPECT_THAT(outcome.out, HasSubstr("1 text of"));
}

TEST_F(LikelihoodProcessTest, MistakesNameTheFlagAndEndWithTheCodeForThem) {
  const std::string texts = absl::StrCat("--texts ", folder_, "/texts ");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"--policy random --budget 64", "--model"},
      {common_ + texts + "--policy full", "nothing to compare"},
      {common_ + texts, "--budget or --bytes"},
      {"--no-run", "--no-run wants a file"},
      {"--no-run --results /nowhere", "--results: /nowhere"},
      {"--model /nowhere --policy random --budget 64", "--model /nowhere"},
      {common_ + "--texts /nowhere.txt --policy random --budget 64", "--texts: /nowhere.txt"},
      {common_ + texts + "--policy anticipate --budget 64 --codebook /nowhere", "/nowhere"},
      {common_ + texts + "--policy random --bytes 1", "--bytes"},
      {common_ + texts + "--policy random --budget 64 --batch 1", "--batch"},
      {"--model lab/reasoner/model --policy random --budget 64 --prompt-tokens 300 " + texts,
       "at least 316"},
      {"--model lab/reasoner/model --prompt-tokens 64 --text-tokens 64", "text_tokens"},
      {common_ + texts + "--policy random --budget 64 --results /nowhere/r", "/nowhere/r"},
  };
  for (const auto& [flags, expected] : cases) {
    const Outcome outcome = Likelihood(flags);
    EXPECT_EQ(outcome.code, 2) << flags;
    EXPECT_THAT(outcome.err, HasSubstr(expected)) << flags;
    EXPECT_EQ(outcome.out, "") << flags;
  }
  EXPECT_THAT(Palimpsest("calibrate --model /nowhere").err, HasSubstr("--model /nowhere"));
  EXPECT_THAT(Palimpsest("calibrate --texts /nowhere").err, HasSubstr("--texts: /nowhere"));
}

TEST_F(LikelihoodProcessTest, ACodebookMadeOfTextsServesAnticipate) {
  const Outcome made = Palimpsest(
      absl::StrCat("calibrate --model lab/reasoner/model --device cpu --quiet --query-samples 64 "
                   "--codebook-queries 16 --texts ",
                   folder_, "/texts --out ", folder_, "/calibration.json"));
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("2 texts"));
  const Outcome judged = Likelihood(absl::StrCat(common_, "--texts ", folder_,
                                                 "/texts/two.txt --policy anticipate --budget 48 ",
                                                 "--codebook ", folder_, "/queries.safetensors"));
  EXPECT_EQ(judged.code, 0) << judged.err;
  EXPECT_THAT(judged.out, HasSubstr("anticipate"));
}

TEST_F(LikelihoodProcessTest, SharesAreAddedToACodebookWhoseQueriesStay) {
  const std::string calibrate = "calibrate --model lab/reasoner/model --device cpu --quiet ";
  const std::string texts = absl::StrCat("--texts ", folder_, "/texts/");
  WriteText("long", "<bos> goal 38 [ 27 26 5 2 ]", 60);
  const Outcome made =
      Palimpsest(absl::StrCat(calibrate, "--query-samples 64 --codebook-queries 16 ", texts,
                              "long.txt --share-tokens 0 --out ", folder_, "/calibration.json"));
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("shares of lanes: none"));
  const std::string from = absl::StrCat("--shares-of ", folder_, "/queries.safetensors ");
  const std::string to = absl::StrCat("--out ", folder_, "/shares.safetensors ");
  const Outcome added = Palimpsest(absl::StrCat(calibrate, from, to, texts, "long.txt"));
  ASSERT_EQ(added.code, 0) << added.err;
  EXPECT_THAT(added.out, HasSubstr("of each KV head"));
  const std::string before = Slurp(folder_ + "/queries.safetensors");
  const std::string after = Slurp(folder_ + "/shares.safetensors");
  EXPECT_THAT(before, Not(HasSubstr("lane_shares")));
  EXPECT_THAT(after, HasSubstr("lane_shares"));
  constexpr size_t kQueryBytes = 8 * 4 * 16 * 64 * 2, kShareBytes = 8 * 2 * 4;
  EXPECT_EQ(after.substr(after.size() - kShareBytes - kQueryBytes, kQueryBytes),
            before.substr(before.size() - kQueryBytes));

  const Outcome idle = Palimpsest(absl::StrCat(calibrate, from, to, texts, "two.txt"));
  EXPECT_NE(idle.code, 0);
  EXPECT_THAT(idle.err, HasSubstr("no lane would lose anything of 1 text"));
  EXPECT_THAT(Palimpsest(absl::StrCat(calibrate, from, "--share-tokens 0")).err,
              HasSubstr("share_tokens"));
}

TEST_F(LikelihoodProcessTest, HelpShowsEveryFlagAndHowToUseThem) {
  const Outcome outcome = Likelihood("--help");
  EXPECT_EQ(outcome.code, 0);
  for (const char* const text : {"--policy", "--bytes", "--formats", "--results", "EXAMPLES"}) {
    EXPECT_THAT(outcome.out, HasSubstr(text));
  }
}

}  // namespace
}  // namespace palimpsest::cli
