// SPDX-License-Identifier: Apache-2.0
// Thousands of damaged files and command lines: each is read or refused, none crashes, and every
// refusal says something printable. Run under the sanitizers too. The seed is fixed.
#include <gtest/gtest.h>

#include <random>

#include "common/base/settings.h"
#include "common/base/text.h"
#include "tests/base/sample_settings.h"

namespace palimpsest {
namespace {

constexpr char kWellFormed[] =
    "# a comment\n"
    "listen: 127.0.0.1:7400\n"
    "heartbeat_interval: 250ms\n"
    "pool_size_bytes: 2GiB\n"
    "threads: 8\n"
    "temperature: 0.7\n"
    "verify: yes\n"
    "model: '/models/one'\n"
    "mode: lockstep\n"
    "policies: [full, window]\n"
    "formats: R=nvfp4,E=nvfp4,T=ternary\n"
    "quotas:\n"
    "  acme: {bytes: 2GiB, owner: Ann}\n"
    "  default:\n"
    "    bytes: 1KiB\n";

std::string Mutated(std::string text, std::mt19937_64* random) {
  static const std::vector<std::string> kTokens = {
      "{",   "}",   "[", "]",  ": ",   "- ",  "? ", "&a ",  "*a",     "!!str ", "|\n",
      ">\n", "#",   "'", "\"", "---",  "...", "\n", "\r\n", "\t",     "<<",     "%YAML",
      "@",   "`",   ",", "\\", "\xEF", "~",   "0x", "1e99", "!<tag>", "\"\\x",  "\"\\U0011FFFF\"",
      " ",   "\x85"};
  const int edits = 1 + static_cast<int>((*random)() % 6);
  for (int i = 0; i < edits && !text.empty(); ++i) {
    const size_t at = (*random)() % text.size();
    switch ((*random)() % 5) {
      case 0:
        text[at] = static_cast<char>((*random)());
        break;
      case 1:
        text.erase(at, 1 + (*random)() % 12);
        break;
      case 2:
        text.insert(at, kTokens[(*random)() % kTokens.size()]);
        break;
      case 3:
        text.insert(at, text.substr((*random)() % text.size(), (*random)() % 30));
        break;
      default:
        text.insert(at, std::string((*random)() % 80, "[{\"'& "[(*random)() % 6]));
    }
  }
  return text;
}

void ExpectPrintable(const absl::Status& status) {
  if (status.ok()) return;
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const std::string message(status.message());
  EXPECT_FALSE(message.empty());
  for (const char c : message) EXPECT_GE(static_cast<unsigned char>(c), 0x20u) << Escaped(message);
}

TEST(SettingsMutationTest, DamagedFilesAreReadOrRefused) {
  std::mt19937_64 random(20261122);
  int refused = 0;
  for (int i = 0; i < 4000; ++i) {
    SampleSettings settings;
    SettingsTable table("sample", "A sample program.");
    AddSampleSettings(&table, &settings);
    const absl::Status status = ReadSettingsText(Mutated(kWellFormed, &random), "c.yaml", &table);
    ExpectPrintable(status);
    refused += status.ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 2000);
  EXPECT_LT(refused, 4000) << "the start is well formed, so some mutants must be too";
}

TEST(SettingsMutationTest, DamagedCommandLinesAreReadOrRefused) {
  std::mt19937_64 random(7);
  const std::vector<std::string> good = {"--threads", "3",      "--mode=async", "--verify",
                                         "--listen",  ":7400",  "--policies",   "full,thinkv",
                                         "--formats", "R4E4T2", "--help"};
  for (int i = 0; i < 4000; ++i) {
    std::vector<std::string> arguments = good;
    arguments[random() % arguments.size()] = Mutated(good[random() % good.size()], &random);
    arguments.erase(arguments.begin() + static_cast<std::ptrdiff_t>(random() % arguments.size()));
    SampleSettings settings;
    SettingsTable table("sample", "A sample program.");
    AddSampleSettings(&table, &settings);
    ExpectPrintable(ParseSettings(arguments, &table).status());
  }
}

}  // namespace
}  // namespace palimpsest
