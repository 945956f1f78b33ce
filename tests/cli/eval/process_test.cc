// SPDX-License-Identifier: Apache-2.0
// `palimpsest eval` as its user has it: against the simulated worker always, and against the real
// one where it is built.
#include "tests/cli/process.h"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace palimpsest::cli {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using Json = nlohmann::json;

constexpr char kFast[] = "rate=20000,chain=300";

std::vector<Json> JsonLines(const std::string& text) {
  std::vector<Json> lines;
  for (const auto& line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    lines.push_back(Json::parse(line.begin(), line.end()));
  }
  return lines;
}

// A new name in the tests' folder.
std::string NewPath(const std::string& suffix) {
  static int count = 0;
  return absl::StrCat(Folder(), "/eval-", ++count, suffix);
}

std::vector<std::string> Eval(const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"eval",     "--max-tokens",    "1500",     "--limit", "3",
                                        "--policy", "full,thinkv,h2o", "--budget", "64"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST(EvalProcess, EndsInATrueTable) {
  const Outcome outcome = Palimpsest(Eval({}), kFast);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out,
              HasSubstr("3 problems of lab/reasoner/problems/heldout.jsonl, chains of at "
                        "most 1,500 tokens"));
  EXPECT_THAT(outcome.out, HasSubstr("h2o k=64"));
  EXPECT_THAT(outcome.out, HasSubstr("3/3"));
}

TEST(EvalProcess, JsonIsALineAPoint) {
  const Outcome outcome = Palimpsest(Eval({"--format", "json"}), absl::StrCat(kFast, ",wrong=2"));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::vector<Json> lines = JsonLines(outcome.out);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["points"], 3);
  EXPECT_EQ(lines[1]["policy"], "full");
  EXPECT_EQ(lines[1]["accuracy"], 1.0);
  EXPECT_LT(lines[2]["accuracy"], 1.0);
  EXPECT_LT(lines[2]["bytes_mean_percent"], lines[1]["bytes_mean_percent"]);
  EXPECT_GT(lines[2]["live_tokens_mean"], 0);
}

TEST(EvalProcess, WhatIsInTheFileIsNotRunAgain) {
  const std::string path = NewPath(".jsonl");
  ASSERT_EQ(Palimpsest(Eval({"--out", path}), kFast).code, 0);
  const std::string before = Slurp(path);
  // A worker that refuses everything is not even asked.
  const Outcome again = Palimpsest(Eval({"--out", path}), "refuse=1");
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(Slurp(path), before);
  // Without the last two chains they are run, and only they.
  std::vector<std::string> lines = absl::StrSplit(before, '\n', absl::SkipEmpty());
  lines.resize(lines.size() - 2);
  std::ofstream(path) << absl::StrJoin(lines, "\n") << "\n{\"torn";
  const Outcome rest = Palimpsest(Eval({"--out", path}), kFast);
  EXPECT_EQ(rest.code, 0) << rest.err;
  EXPECT_EQ(JsonLines(Slurp(path)).size(), lines.size() + 2);
  // A point that is asked for alone is still held against the full cache.
  const Outcome alone = Palimpsest({"eval", "--max-tokens", "1500", "--limit", "3", "--policy",
                                    "h2o", "--budget", "64", "--out", path, "--format", "json"});
  EXPECT_EQ(alone.code, 0) << alone.err;
  EXPECT_EQ(JsonLines(alone.out)[1]["policy"], "h2o");
  EXPECT_TRUE(JsonLines(alone.out)[1]["tokens_to_full"].is_number());
  // And no worker is needed to report.
  const Outcome report =
      Palimpsest({"eval", "--no-run", "--out", path, "--pictures", Folder(), "--format", "json"});
  EXPECT_EQ(report.code, 0) << report.err;
  EXPECT_EQ(JsonLines(report.out).size(), 4u);
  EXPECT_THAT(Slurp(Folder() + "/accuracy.svg"), HasSubstr("</svg>"));
  EXPECT_THAT(Slurp(Folder() + "/timelines.svg"), HasSubstr("</svg>"));
}

TEST(EvalProcess, AFileOfSomethingElseIsRefused) {
  const std::string path = NewPath(".jsonl");
  ASSERT_EQ(Palimpsest(Eval({"--out", path}), kFast).code, 0);
  const Outcome other = Palimpsest(Eval({"--out", path, "--seed", "2"}), kFast);
  EXPECT_EQ(other.code, 3);
  EXPECT_THAT(other.err, HasSubstr("seed: the file has 1, asked for 2"));
}

TEST(EvalProcess, LostChainsAreNamedNotCountedAndRunAgain) {
  const std::string path = NewPath(".jsonl");
  const Outcome outcome = Palimpsest(Eval({"--out", path}), absl::StrCat(kFast, ",fail=2"));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("warning: lost: problem heldout-"));
  EXPECT_THAT(outcome.err, HasSubstr("the simulation was asked to fail"));
  EXPECT_THAT(outcome.out, HasSubstr("chains were lost to errors"));
  const Outcome again = Palimpsest(Eval({"--out", path}), kFast);
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(JsonLines(Slurp(path)).size(), 1u + 3 + 9);
}

TEST(EvalProcess, OutOfTimeReportsWhatThereIs) {
  const std::string path = NewPath(".jsonl");
  const Outcome outcome =
      Palimpsest(Eval({"--out", path, "--timeout", "1s"}), "rate=300,chain=3000");
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("not done after --timeout; 0 of 6 chains"));
  EXPECT_THAT(outcome.out, HasSubstr("not finished"));
}

TEST(EvalProcess, CtrlCKeepsWhatHasEnded) {
  const std::string path = NewPath(".jsonl");
  std::vector<std::string> arguments = Eval({"--out", path, "--batch", "1"});
  Process process(PALIMPSEST, arguments,
                  {{"PALIMPSEST_BIN", SimulatedPrograms()},
                   {"PALIMPSEST_SIMULATION", "rate=1000,chain=800,batch=1"}});
  for (int i = 0; i < 500 && Slurp(path).find("\"verdict\"") == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  kill(process.pid(), SIGINT);
  const Outcome outcome = process.Wait();
  EXPECT_EQ(outcome.signal, SIGINT);
  EXPECT_THAT(outcome.err, HasSubstr("the same command goes on from there"));
  EXPECT_GE(JsonLines(Slurp(path)).size(), 5u);
}

TEST(EvalProcess, MistakesNameTheFlag) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"eval"}, "--budget or --bytes: policy anticipate wants one"},
      {{"eval", "--policy", "nosuch"}, "--policy: policy 'nosuch'"},
      {{"eval", "--budget", "64", "--codebook", "nosuch"},
       "--policy: anticipate wants a codebook of the model's queries"},
      {{"eval", "--policy", "full", "--problems", "nosuch.jsonl"}, "--problems nosuch.jsonl"},
      {{"eval", "--policy", "full", "--samples", "2"}, "all samples are the same"},
      {{"eval", "--policy", "full", "--answer", "box"}, "expected boxed, after:TEXT"},
      {{"eval", "--no-run"}, "--no-run wants a file"},
      {{"eval", "--no-run", "--out", "/nonexistent"}, "--out: /nonexistent: No such file"},
      {{"eval", "--policy", "full", "--budget", "0"}, "--budget: '0'"},
      {{"eval", "--policy", "full", "--worker", "nohost"}, "--worker: 'nohost'"},
      {{"eval", "--policy", "full", "--lockstep"}, "without a store"},
      {{"eval", "--policy", "full", "--min-tokens", "9", "--max-tokens", "8"}, "not be above"},
      {{"eval", "--policy", "full", "--model", "/tmp"}, "holds no config.json"},
  };
  for (const auto& [arguments, expected] : cases) {
    const Outcome outcome = Palimpsest(arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_THAT(outcome.out, IsEmpty());
    EXPECT_THAT(outcome.err, HasSubstr(expected));
  }
}

TEST(EvalProcess, ARunningWorkerIsUsedIfItHasTheModel) {
  Process worker(SIMULATED_WORKER, {}, {{"PALIMPSEST_SIMULATION", kFast}});
  const std::string endpoint = worker.Endpoint();
  EXPECT_EQ(Palimpsest(Eval({"--worker", endpoint})).code, 0);
  const std::string model = NewPath("-model");
  std::filesystem::copy("tests/decode/model/data/qwen2", model);
  std::filesystem::copy("lab/reasoner/model/tokenizer.json", model + "/tokenizer.json");
  const Outcome other = Palimpsest(Eval({"--worker", endpoint, "--model", model}));
  EXPECT_EQ(other.code, 3);
  EXPECT_THAT(other.err, HasSubstr("serves another model"));
  const Outcome plain = Palimpsest(Eval({"--worker", endpoint, "--rotate-keys", "off"}));
  EXPECT_EQ(plain.code, 3);
  EXPECT_THAT(plain.err, HasSubstr("stores keys rotated. Say so: --rotate-keys on"));
}

class RealEval : public testing::Test {
 protected:
  void SetUp() override {
    const std::filesystem::path folder = std::filesystem::path(PALIMPSEST).parent_path();
    if (!std::filesystem::exists(folder / "palimpsest-decode") ||
        !std::filesystem::exists(folder / "palimpsest-kvstore") ||
        !std::filesystem::exists("lab/reasoner/model/model.safetensors")) {
      GTEST_SKIP()
          << "palimpsest-decode, palimpsest-kvstore or the reasoner's weights are not here";
    }
  }
};

TEST_F(RealEval, TheReasonerAnswersFromAFullAndACompressedCache) {
  const Outcome outcome =
      Process(PALIMPSEST,
              {"eval", "--problems", "lab/reasoner/problems/short.jsonl", "--max-tokens", "700",
               "--limit", "2", "--policy", "full,window,h2o", "--bytes", "60", "--pool-bytes",
               "64MiB", "--device", "cpu", "--format", "json"})
          .Wait();
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::vector<Json> lines = JsonLines(outcome.out);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[1]["accuracy"], 1.0);
  EXPECT_EQ(lines[1]["same_as_full"], 2);
  for (size_t i = 2; i < 4; ++i) {
    EXPECT_EQ(lines[i]["chains"], 2);
    // Chains that lose their way end early or late; as long as the reference they hold 60 %.
    EXPECT_NEAR(lines[i]["bytes_mean_percent"].get<double>(), 60, 15) << lines[i];
  }
}

// Any Hugging Face folder and any questions: here a tiny model of random weights, whose answers are
// wrong, sampled twice, and plans of a store.
TEST_F(RealEval, AnyModelAnswersAnyQuestions) {
  const std::string model = NewPath("-model");
  std::filesystem::copy("tests/decode/model/data/qwen3", model);
  Json vocabulary;
  for (int i = 0; i < 256; ++i) vocabulary[absl::StrCat("w", i)] = i;
  vocabulary.erase("w0");
  vocabulary["<unk>"] = 0;
  std::ofstream(model + "/tokenizer.json")
      << Json{{"version", "1.0"},
              {"added_tokens", Json::array()},
              {"normalizer", nullptr},
              {"pre_tokenizer", {{"type", "WhitespaceSplit"}}},
              {"post_processor", nullptr},
              {"decoder", nullptr},
              {"model", {{"type", "WordLevel"}, {"vocab", vocabulary}, {"unk_token", "<unk>"}}}};
  const std::string problems = NewPath(".jsonl");
  std::ofstream(problems) << R"({"problem": "w5 w6 w7", "answer": 42})"
                          << "\n"
                          << R"({"prompt": "w9 w8", "answer": "w1"})"
                          << "\n";
  const std::string out = NewPath(".jsonl");
  const Outcome outcome = Process(PALIMPSEST, {"eval",
                                               "--model",
                                               model,
                                               "--problems",
                                               problems,
                                               "--instruction",
                                               "w3",
                                               "--answer",
                                               "regex:w\\d+",
                                               "--policy",
                                               "full,random",
                                               "--budget",
                                               "32",
                                               "--max-new-tokens",
                                               "80",
                                               "--temperature",
                                               "1",
                                               "--samples",
                                               "2",
                                               "--store",
                                               "--pool-bytes",
                                               "16MiB",
                                               "--device",
                                               "cpu",
                                               "--out",
                                               out,
                                               "--format",
                                               "json"})
                              .Wait();
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::vector<Json> lines = JsonLines(outcome.out);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0]["samples"], 2);
  EXPECT_EQ(lines[1]["chains"], 4);
  const std::vector<Json> records = JsonLines(Slurp(out));
  ASSERT_EQ(records.size(), 1u + 2 + 8);
  for (size_t i = 3; i < records.size(); ++i) {
    EXPECT_THAT(records[i]["answer"].get<std::string>(), testing::StartsWith("w"));
  }
  const Outcome bytes = Process(PALIMPSEST, {"eval", "--model", model, "--problems", problems,
                                             "--policy", "random", "--bytes", "50"})
                            .Wait();
  EXPECT_EQ(bytes.code, 2);
  EXPECT_THAT(bytes.err, HasSubstr("--expect-tokens"));
}

}  // namespace
}  // namespace palimpsest::cli
