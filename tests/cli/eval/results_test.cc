// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/results.h"

#include <unistd.h>

#include <fstream>
#include <sstream>

#include "absl/strings/str_split.h"
#include "common/base/build_info.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/cli/eval/figures.h"
#include "tests/cli/eval/example.h"

namespace palimpsest::cli {
namespace {

using testing::HasSubstr;

class ResultsTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "/results-XXXXXX";
    close(mkstemp(path_.data()));
  }
  void TearDown() override { unlink(path_.c_str()); }

  std::string Text() const {
    std::ostringstream text;
    text << std::ifstream(path_).rdbuf();
    return text.str();
  }
  void Write(const std::string& text) const { std::ofstream(path_) << text; }

  // The example as a file.
  void Fill() const {
    EvalResults results;
    ASSERT_TRUE(results.Open(path_, example_.header).ok());
    for (const GridPoint& point : example_.points) ASSERT_TRUE(results.AddPoint(point).ok());
    for (const ChainRecord& record : example_.records) ASSERT_TRUE(results.Add(record).ok());
  }

  std::string path_;
  const Example example_;
};

TEST_F(ResultsTest, WhatIsWrittenIsReadBack) {
  Fill();
  EvalResults results;
  ASSERT_TRUE(results.Open(path_, example_.header).ok());
  ASSERT_EQ(results.points().size(), 4u);
  EXPECT_EQ(results.points()[1].spec, example_.points[1].spec);
  EXPECT_EQ(results.points()[1].target_percent, 10.0);
  ASSERT_EQ(results.records().size(), example_.records.size());
  for (size_t i = 0; i < example_.records.size(); ++i) {
    EXPECT_EQ(ToJson(results.records()[i]), ToJson(example_.records[i]));
  }
  EXPECT_TRUE(results.Has(example_.points[1].Key(), "p-2", 0));
  EXPECT_FALSE(results.Has(example_.points[1].Key(), "p-2", 1));
  EXPECT_FALSE(results.Has(example_.points[3].Key(), "p-2", 0));
}

TEST_F(ResultsTest, ALineCutOffInTheWritingIsDroppedAndTheRestGoesOn) {
  Fill();
  const std::string whole = Text();
  Write(whole.substr(0, whole.size() - 40));
  EvalResults results;
  ASSERT_TRUE(results.Open(path_, example_.header).ok());
  EXPECT_EQ(results.records().size(), example_.records.size() - 1);
  ASSERT_TRUE(results.Add(example_.records.back()).ok());
  EXPECT_EQ(Text(), whole);
}

TEST_F(ResultsTest, TheGridMayGrow) {
  Fill();
  EvalResults results;
  ASSERT_TRUE(results.Open(path_, example_.header).ok());
  ASSERT_TRUE(results.AddPoint(example_.points[1]).ok());  // known: no second line
  const GridPoint more = ExamplePoint("random", 100);
  ASSERT_TRUE(results.AddPoint(more).ok());
  ASSERT_TRUE(results.Add(ExampleRecord(more, 1, true, 9)).ok());
  EvalResults again;
  ASSERT_TRUE(again.Read(path_).ok());
  EXPECT_EQ(again.points().size(), 5u);
  EXPECT_EQ(again.points().back().commit, BuildCommit());
}

TEST_F(ResultsTest, RecordsOfSomethingElseAreRefusedByName) {
  Fill();
  const auto refusal = [this](const EvalHeader& header) {
    EvalResults results;
    const absl::Status status = results.Open(path_, header);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    return std::string(status.message());
  };
  EvalHeader header = example_.header;
  header.model_fingerprint = "another";
  EXPECT_THAT(refusal(header), HasSubstr("model_fingerprint: the file has \"0123456789abcdef\""));
  header = example_.header;
  header.problems_hash = "x";
  EXPECT_THAT(refusal(header), HasSubstr("problems_hash"));
  header = example_.header;
  header.sampling.temperature = 0.6f;
  EXPECT_THAT(refusal(header), HasSubstr("temperature: the file has 0.0, asked for 0.6"));
  header = example_.header;
  header.keys_rotated = true;
  EXPECT_THAT(refusal(header), HasSubstr("keys_rotated: the file has false, asked for true"));
  header = example_.header;
  header.machine = "another";  // is told, not compared
  EvalResults results;
  EXPECT_TRUE(results.Open(path_, header).ok());
}

TEST(EvalHeaderTest, AFileThatDoesNotSayHasKeysAsTheyAre) {
  auto json = nlohmann::json::parse(ToJson(EvalHeader{}).dump());
  json.erase("keys_rotated");
  const auto header = ParseEvalHeader(json);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_FALSE(header->keys_rotated);
}

TEST_F(ResultsTest, OneEvaluationAtATimeWritesAFile) {
  EvalResults first, second;
  ASSERT_TRUE(first.Open(path_, example_.header).ok());
  EXPECT_THAT(second.Open(path_, example_.header).message(),
              HasSubstr("another process is writing it"));
}

TEST_F(ResultsTest, FilesOfSomethingElseAreLeftAlone) {
  for (const std::string text : {"# my notes\n", "no line", "{\"demo_format\": 1}\n"}) {
    Write(text);
    EvalResults results;
    EXPECT_EQ(results.Open(path_, example_.header).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(Text(), text);
  }
  EXPECT_EQ(EvalResults().Read("/nonexistent").code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(EvalResults().Open("/nonexistent/x", example_.header).message(),
              HasSubstr("cannot be written to"));
}

TEST_F(ResultsTest, BrokenLinesAreToldByNumber) {
  Fill();
  const std::string whole = Text();
  const auto error = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    text.replace(text.find(from), from.size(), to);
    Write(text);
    return std::string(EvalResults().Read(path_).message());
  };
  EXPECT_THAT(error("\"eval_format\":1", "\"eval_format\":9"), HasSubstr(":1: eval_format 9"));
  EXPECT_THAT(error("\"budget_tokens\":900", "\"budget_tokens\":901"), HasSubstr(":3: point_key"));
  EXPECT_THAT(error("\"end\":\"stop\"", "\"end\":\"lost\""), HasSubstr("expected stop, length"));
  EXPECT_THAT(error("\"tokens\":1000", "\"tokens\":\"x\""), HasSubstr(":6: the key 'tokens'"));
  EXPECT_THAT(error("\"tokens\":1000", "\"tokens\":-1"), HasSubstr("expected a whole number"));
  EXPECT_THAT(error("{\"point\":\"full", "{\"point\":\"fool"), HasSubstr("no line of its own"));
}

}  // namespace
}  // namespace palimpsest::cli
