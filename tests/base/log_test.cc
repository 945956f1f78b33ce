// SPDX-License-Identifier: Apache-2.0
#include "common/base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>
#include <vector>

#include "common/base/settings.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class LogTest : public ::testing::Test {
 protected:
  std::unique_ptr<Log> Make(LogFormat format, LogLevel level = LogLevel::kInfo) {
    return NewLog({.program = "sample", .level = level, .format = format, .stream = &out_});
  }

  nlohmann::json ParsedLine() { return nlohmann::json::parse(out_.str()); }

  std::ostringstream out_;
};

TEST_F(LogTest, TextIsOneLineWithUtcTimeLevelProgramAndFields) {
  Make(LogFormat::kText)
      ->Info("worker registered", {{"worker", "w 0"},
                                   {"pages", 4096},
                                   {"bytes", uint64_t{1} << 63},
                                   {"lag_seconds", 0.25},
                                   {"lockstep", true},
                                   {"empty", ""}});
  EXPECT_THAT(
      out_.str(),
      MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\\.[0-9]{3}Z info sample "
                   "\"worker registered\" worker=\"w 0\" pages=4096 "
                   "bytes=9223372036854775808 lag_seconds=0.25 lockstep=true empty=\"\"\n"));
}

TEST_F(LogTest, JsonIsOneObjectALine) {
  Make(LogFormat::kJson)
      ->Warning("page \"lost\"", {{"worker", "w0"}, {"pages", -1}, {"up", false}});
  const nlohmann::json record = ParsedLine();
  EXPECT_EQ(record["level"], "warning");
  EXPECT_EQ(record["program"], "sample");
  EXPECT_EQ(record["msg"], "page \"lost\"");
  EXPECT_EQ(record["worker"], "w0");
  EXPECT_EQ(record["pages"], -1);
  EXPECT_EQ(record["up"], false);
  EXPECT_THAT(record["ts"].get<std::string>(), HasSubstr("T"));
}

TEST_F(LogTest, NothingFromOutsideForgesALineOrDrivesATerminal) {
  const std::string evil =
      "x\n2026-01-01T00:00:00.000Z error sample \"forged\"\r\x1b[2J\x7f\xFF\" a=1";
  Make(LogFormat::kText)->Error(evil, {{"name", evil}});
  const std::string text = out_.str();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  for (const char c : text.substr(0, text.size() - 1)) {
    EXPECT_GE(static_cast<unsigned char>(c), 0x20u);
    EXPECT_LT(static_cast<unsigned char>(c), 0x7Fu);
  }
  EXPECT_THAT(text, HasSubstr("\\\" a=1"));

  out_.str("");
  Make(LogFormat::kJson)->Error(evil, {{"name", evil}, {"backslash", "\\x41\\"}});
  const std::string json = out_.str();
  EXPECT_EQ(std::count(json.begin(), json.end(), '\n'), 1);
  for (const char c : json.substr(0, json.size() - 1)) EXPECT_GE(c, 0x20);
  EXPECT_THAT(ParsedLine()["name"].get<std::string>(), HasSubstr("x\n2026"));
  EXPECT_EQ(ParsedLine()["backslash"], "\\x41\\");
}

TEST_F(LogTest, PatternsAndFormatsInTextMeanNothing) {
  Make(LogFormat::kText)->Info("%v {} %n {0}", {{"k", "%Y {:d}"}});
  EXPECT_THAT(out_.str(), HasSubstr("\"%v {} %n {0}\" k=\"%Y {:d}\""));
  NewLog({.program = "a%nb", .stream = &out_})->Info("x");
  EXPECT_THAT(out_.str(), HasSubstr("info a%nb \"x\""));
}

TEST_F(LogTest, LongTextIsCutAndCounted) {
  Make(LogFormat::kText)->Info(std::string(2000, 'm'), {{"value", std::string(5000, 'v')}});
  EXPECT_THAT(out_.str(), HasSubstr("m...(+976 bytes)"));
  EXPECT_THAT(out_.str(), HasSubstr("v...(+2952 bytes)"));
  out_.str("");
  Make(LogFormat::kJson)->Info("m", {{"value", std::string(5000, 'v')}});
  EXPECT_THAT(out_.str(), HasSubstr("v...(+2952 bytes)"));
}

TEST_F(LogTest, NumbersThatJsonDoesNotKnowAreText) {
  Make(LogFormat::kJson)
      ->Info("m", {{"a", std::numeric_limits<double>::infinity()},
                   {"b", std::numeric_limits<double>::quiet_NaN()}});
  EXPECT_EQ(ParsedLine()["a"], "inf");
  EXPECT_EQ(ParsedLine()["b"], "nan");
}

TEST_F(LogTest, LevelsBelowTheSettingAreNotWritten) {
  const auto log = Make(LogFormat::kText, LogLevel::kWarning);
  log->Debug("d");
  log->Info("i");
  EXPECT_EQ(out_.str(), "");
  EXPECT_FALSE(log->Enabled(LogLevel::kInfo));
  log->Warning("w");
  log->Error("e");
  EXPECT_THAT(out_.str(), HasSubstr("error sample \"e\""));
  const auto off = Make(LogFormat::kText, LogLevel::kOff);
  out_.str("");
  off->Error("e");
  EXPECT_EQ(out_.str(), "");
}

TEST_F(LogTest, ABrokenStreamIsSurvived) {
  out_.setstate(std::ios::badbit);
  out_.exceptions(std::ios::failbit);
  Make(LogFormat::kText)->Error("lost");
}

TEST_F(LogTest, ThreadsDoNotMixTheirLines) {
  const auto log = Make(LogFormat::kJson);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&log, t] {
      for (int i = 0; i < 200; ++i) log->Info("turn", {{"thread", t}, {"i", i}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::istringstream lines(out_.str());
  std::string line;
  int count = 0;
  for (; std::getline(lines, line); ++count) EXPECT_EQ(nlohmann::json::parse(line)["msg"], "turn");
  EXPECT_EQ(count, 800);
}

TEST_F(LogTest, SettingsChooseLevelAndFormat) {
  LogOptions options;
  SettingsTable table("sample", "A sample program.");
  AddLogSettings(&table, &options);
  ASSERT_TRUE(ParseSettings({"--log-level", "debug", "--log-format=json"}, &table).ok());
  EXPECT_EQ(options.level, LogLevel::kDebug);
  EXPECT_EQ(options.format, LogFormat::kJson);
}

}  // namespace
}  // namespace palimpsest
