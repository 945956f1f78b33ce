// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "common/base/settings.h"
#include "tests/base/sample_settings.h"

namespace palimpsest {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::StartsWith;

using Quota = SampleSettings::Quota;

class SettingsFileTest : public ::testing::Test {
 protected:
  SettingsFileTest() : table_("sample", "A sample program.") {
    AddSampleSettings(&table_, &settings_);
  }

  absl::Status Read(absl::string_view text) { return ReadSettingsText(text, "c.yaml", &table_); }

  std::string Refusal(absl::string_view text) {
    const absl::Status status = Read(text);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  }

  SampleSettings settings_;
  SettingsTable table_;
};

TEST_F(SettingsFileTest, FillsEveryKind) {
  const absl::Status status = Read(
      "# a comment\n"
      "listen: \"[::1]:9\"\n"
      "heartbeat_interval: 250ms\n"
      "pool_size_bytes: 2GiB\n"
      "threads: 8\n"
      "temperature: 0.7\n"
      "verify: yes\n"
      "model: '/models/with space'\n"
      "mode: lockstep\n"
      "policies: [full, window]\n"
      "formats: R4E4T2\n"
      "quotas:\n"
      "  acme.org: {bytes: 2GiB, owner: 'Ann, B.=C'}\n"
      "  default:\n"
      "    bytes: 1KiB\n");
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(settings_.listen, (Endpoint{"::1", 9}));
  EXPECT_EQ(settings_.pool_size_bytes, 2ull << 30);
  EXPECT_TRUE(settings_.verify);
  EXPECT_THAT(settings_.policies, ElementsAre("full", "window"));
  EXPECT_THAT(settings_.quotas, ElementsAre(Pair("acme.org", Quota{2ull << 30, "Ann, B.=C"}),
                                            Pair("default", Quota{1024, ""})));
  EXPECT_EQ(table_.origin("threads"), "c.yaml:5:10");
  EXPECT_EQ(table_.origin("lease_length"), "default");
}

TEST_F(SettingsFileTest, AcceptsBomCrlfAndACommentOnlyFile) {
  EXPECT_TRUE(Read("\xEF\xBB\xBFthreads: 3\r\nverify: true\r\n").ok());
  EXPECT_EQ(settings_.threads, 3u);
  EXPECT_TRUE(settings_.verify);
  EXPECT_TRUE(Read("# everything at its default\n").ok());
  EXPECT_TRUE(Read("---\nthreads: 4\n").ok());
}

TEST_F(SettingsFileTest, UnknownKeysGetPlaceAndSuggestion) {
  EXPECT_EQ(Refusal("threads: 2\npool_size_byte: 1GiB\n"),
            "c.yaml:2:1: unknown key 'pool_size_byte'; did you mean 'pool_size_bytes'?");
  EXPECT_EQ(Refusal("zzzzzzz: 1\n"), "c.yaml:1:1: unknown key 'zzzzzzz'; see sample --help");
  EXPECT_EQ(Refusal("config: other.yaml\n"), "c.yaml:1:1: unknown key 'config'; see sample --help");
  EXPECT_THAT(Refusal("base: &b {threads: 1}\n<<: *b\n"), StartsWith("c.yaml:1:1: unknown key"));
}

TEST_F(SettingsFileTest, RepeatedKeysNameTheFirst) {
  EXPECT_EQ(Refusal("threads: 2\nverify: true\nthreads: 2\n"),
            "c.yaml:3:1: key 'threads' is set a second time; the first is in line 1");
}

TEST_F(SettingsFileTest, MapsAreCheckedByNameAndField) {
  EXPECT_EQ(Refusal("quotas: {acme: {bytes: lots}}\n"),
            "c.yaml:1:9: quotas: acme: bytes: 'lots' is not a number of bytes; write for example "
            "512MiB, 10GB or 1048576");
  EXPECT_EQ(Refusal("quotas:\n  acme: {byte: 1KiB}\n"),
            "c.yaml:2:3: quotas: acme: unknown field 'byte'; allowed: bytes, owner; did you mean "
            "'bytes'?");
  EXPECT_EQ(Refusal("quotas: {acme: {bytes: 1KiB}, b: {owner: c}, acme: {owner: d}}\n"),
            "c.yaml:1:46: key 'acme' is set a second time; the first is in line 1");
  EXPECT_EQ(Refusal("quotas:\n  acme:\n    bytes: 1KiB\n    bytes: 2KiB\n"),
            "c.yaml:4:5: key 'bytes' is set a second time; the first is in line 3");
  EXPECT_THAT(Refusal("quotas: {'a b': {bytes: 1KiB}}\n"),
              HasSubstr("quotas: 'a b' is no name; allowed: 1 to 128 of A-Z"));
  EXPECT_EQ(Refusal("quotas: {a: {b.bytes: 1KiB}}\n"), "c.yaml:1:14: 'b.bytes' is no field");
  EXPECT_EQ(Refusal("quotas: {acme: {bytes: [1KiB]}}\n"),
            "c.yaml:1:24: quotas: found a list but expected a single value; for example {acme: "
            "{bytes: 2GiB}}");
  EXPECT_EQ(Refusal("quotas: 3\n"),
            "c.yaml:1:9: quotas: found a single value but expected a mapping of names; for example "
            "{acme: {bytes: 2GiB}}");
  for (const char* nothing : {"quotas:\n  acme:\n", "quotas: {acme: {}}\n"}) {
    EXPECT_THAT(Refusal(nothing), HasSubstr("expected a mapping with the fields bytes, owner"));
  }
  EXPECT_TRUE(settings_.quotas.empty());
  EXPECT_TRUE(Read("quotas: {}\n").ok());
}

TEST_F(SettingsFileTest, WrongTypesSayWhatWasFound) {
  EXPECT_EQ(Refusal("threads: [1, 2]\n"),
            "c.yaml:1:10: threads: found a list but expected a single value; allowed: 1 to 256");
  EXPECT_EQ(Refusal("pool_size_bytes:\n  size: 1\n"),
            "c.yaml:2:3: pool_size_bytes: found a mapping but expected a single value; allowed: "
            "1MiB to 1TiB; for example 2GiB");
  EXPECT_EQ(Refusal("threads: ~\n"),
            "c.yaml:1:10: threads: found nothing but expected a single value; allowed: 1 to 256");
  EXPECT_THAT(Refusal("threads:\n"), HasSubstr("threads: found nothing but expected"));
  EXPECT_EQ(Refusal("policies: full\n"),
            "c.yaml:1:11: policies: found a single value but expected a list; allowed: 1 to 4 "
            "items");
  EXPECT_THAT(Refusal("policies: [[a]]\n"), HasSubstr("policies: found a list but expected"));
  EXPECT_THAT(Refusal("policies: []\n"), HasSubstr("a list of 0 items; allowed: 1 to 4 items"));
  EXPECT_EQ(Refusal("threads: true\n"),
            "c.yaml:1:10: threads: 'true' is not a whole number; write for example 8; allowed: 1 "
            "to 256");
  EXPECT_THAT(Refusal("[a]: b\n"), HasSubstr("found a list where a key belongs"));
}

TEST_F(SettingsFileTest, ValuesOutOfRangeNameKeyValueRangeAndPlace) {
  EXPECT_EQ(Refusal("verify: true\npool_size_bytes: 2TiB\n"),
            "c.yaml:2:18: pool_size_bytes: '2TiB' is out of range; allowed: 1MiB to 1TiB");
  EXPECT_THAT(Refusal("pool_size_bytes: 10 GB\n"), HasSubstr("'10 GB' is not a number of bytes"));
  EXPECT_THAT(Refusal("pool_size_bytes: -1\n"), HasSubstr("512MiB, 10GB or 1048576"));
  EXPECT_THAT(Refusal("pool_size_bytes: 1e99\n"), HasSubstr("512MiB, 10GB or 1048576"));
  EXPECT_THAT(Refusal("pool_size_bytes: ''\n"), HasSubstr("'' is not a number of bytes"));
}

TEST_F(SettingsFileTest, RefusesWhatIsNoFlatMapping) {
  EXPECT_EQ(Refusal("- threads\n"),
            "c.yaml:1:1: found a list but expected lines of the form 'key: value'");
  EXPECT_EQ(Refusal("threads\n"),
            "c.yaml:1:1: found a single value but expected lines of the form 'key: value'");
  EXPECT_EQ(Refusal("threads: 1\n---\nthreads: 2\n"),
            "c.yaml:2:1: a second YAML document; a file holds one");
  EXPECT_THAT(Refusal("threads: {\n"), StartsWith("c.yaml:2:1: not YAML: "));
  EXPECT_THAT(Refusal("threads: *nobody\n"), StartsWith("c.yaml:1:10: not YAML: "));
  EXPECT_FALSE(Read(std::string(20000, '[')).ok()) << "deep nesting";
  EXPECT_EQ(Refusal(",\n"), "c.yaml:1:1: not YAML") << "yaml-cpp #1040: its LoadAll never ends";
  EXPECT_EQ(Refusal("--- ~\n"),
            "c.yaml:1:5: found nothing but expected lines of the form 'key: value'");
}

TEST_F(SettingsFileTest, RefusesWhatIsNoCleanText) {
  EXPECT_THAT(Refusal(""), StartsWith("c.yaml:1:1: the file is empty"));
  EXPECT_THAT(Refusal("\xEF\xBB\xBF"), StartsWith("c.yaml:1:1: the file is empty"));
  EXPECT_THAT(Refusal(" \r\n\n"), StartsWith("c.yaml:1:1: the file is empty"));
  EXPECT_EQ(Refusal("policies:\n\t- full\n"),
            "c.yaml:2:1: a tab in the indentation; YAML is indented with spaces only");
  EXPECT_EQ(Refusal(absl::string_view("threads: 1\n\0", 12)),
            "c.yaml:2:1: a zero byte; save the file as UTF-8 text");
  EXPECT_EQ(Refusal("model: a\x1b[2J\n"), "c.yaml:1:9: a control character '\\x1b'");
  EXPECT_EQ(Refusal("\xFF\xFEt"), "c.yaml:1:1: UTF-16; save the file as UTF-8");
  EXPECT_EQ(Refusal("#" + std::string(256 << 10, 'x')),
            "c.yaml: more than 262144 bytes is no configuration file");
}

TEST_F(SettingsFileTest, RefusesPathsThatAreNoFile) {
  const auto refusal = [this](const std::string& path) {
    return std::string(ReadSettingsFile(path, &table_).message());
  };
  EXPECT_EQ(refusal("/nonexistent/c.yaml"),
            "--config: /nonexistent/c.yaml: No such file or directory");
  EXPECT_EQ(refusal("/"), "--config: /: a directory; name the YAML file in it");
  EXPECT_EQ(refusal("/dev/zero"), "--config: /dev/zero: not a regular file");
  EXPECT_EQ(refusal("a\nb"), "--config: a\\nb: No such file or directory");
}

TEST_F(SettingsFileTest, FlagsOverrideTheFileAndTheFileIsCheckedAllTheSame) {
  const std::string path =
      ::testing::TempDir() + "palimpsest_settings_" + std::to_string(getpid()) + ".yaml";
  std::ofstream(path) << "threads: 8\nverify: true\n";
  ASSERT_TRUE(ParseSettings({"--threads", "3", "--config", path}, &table_).ok());
  EXPECT_EQ(settings_.threads, 3u);
  EXPECT_TRUE(settings_.verify);
  EXPECT_EQ(table_.origin("threads"), "--threads");
  EXPECT_EQ(table_.origin("verify"), path + ":2:9");

  std::ofstream(path) << "threads: 800\n";
  const auto refused = ParseSettings({"--threads", "3", "--config=" + path}, &table_);
  EXPECT_EQ(refused.status().message(),
            path + ":1:10: threads: '800' is out of range; allowed: 1 to 256");
  unlink(path.c_str());
}

}  // namespace
}  // namespace palimpsest
