// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/exit_codes.h"
#include "common/base/settings.h"
#include "tests/base/sample_settings.h"

namespace palimpsest {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

class SettingsFlagsTest : public ::testing::Test {
 protected:
  SettingsFlagsTest() : table_("sample", "A sample program.") {
    AddSampleSettings(&table_, &settings_);
  }

  absl::StatusOr<SettingsAction> Parse(const std::vector<std::string>& arguments) {
    return ParseSettings(arguments, &table_);
  }

  // The message of the refusal; a test fails when there is none.
  std::string Refusal(const std::vector<std::string>& arguments) {
    const auto action = Parse(arguments);
    EXPECT_EQ(action.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(action.status().message());
  }

  SampleSettings settings_;
  SettingsTable table_;
};

TEST_F(SettingsFlagsTest, NoArgumentsLeaveTheDefaults) {
  ASSERT_EQ(*Parse({}), SettingsAction::kRun);
  EXPECT_EQ(settings_.pool_size_bytes, 512ull << 20);
  EXPECT_EQ(table_.origin("pool_size_bytes"), "default");
}

TEST_F(SettingsFlagsTest, FillsEveryKind) {
  ASSERT_TRUE(Parse({"--listen", "[::1]:9", "--heartbeat-interval=250ms", "--pool-size-bytes",
                     "2GiB", "--threads", "8", "--temperature=0.7", "--verify", "--model",
                     "/models/with space", "--mode", "lockstep", "--policies", "full,window",
                     "--formats", "bf16", "--quotas", "a.b.bytes=2GiB,a.b.owner=x=y,c.bytes=1KiB"})
                  .ok());
  EXPECT_EQ(settings_.listen, (Endpoint{"::1", 9}));
  EXPECT_EQ(settings_.heartbeat_interval, std::chrono::milliseconds(250));
  EXPECT_EQ(settings_.pool_size_bytes, 2ull << 30);
  EXPECT_EQ(settings_.threads, 8u);
  EXPECT_EQ(settings_.temperature, 0.7);
  EXPECT_TRUE(settings_.verify);
  EXPECT_EQ(settings_.model, "/models/with space");
  EXPECT_EQ(settings_.mode, SampleSettings::Mode::kLockstep);
  EXPECT_THAT(settings_.policies, ElementsAre("full", "window"));
  EXPECT_EQ(settings_.formats, ClassFormats::Uniform({Format::kBf16, Format::kBf16}));
  EXPECT_THAT(settings_.quotas, ElementsAre(Pair("a.b", SampleSettings::Quota{2ull << 30, "x=y"}),
                                            Pair("c", SampleSettings::Quota{1024, ""})));
  EXPECT_EQ(table_.origin("threads"), "--threads");
  ASSERT_TRUE(Parse({"--quotas", ""}).ok());
  EXPECT_TRUE(settings_.quotas.empty());
}

TEST_F(SettingsFlagsTest, SwitchesAreTurnedOffInTwoWays) {
  settings_.verify = true;
  ASSERT_TRUE(Parse({"--no-verify"}).ok());
  EXPECT_FALSE(settings_.verify);
  settings_.verify = true;
  ASSERT_TRUE(Parse({"--verify=false"}).ok());
  EXPECT_FALSE(settings_.verify);
}

TEST_F(SettingsFlagsTest, ValuesMayBeginWithOneDash) {
  EXPECT_THAT(Refusal({"--temperature", "-1"}),
              "--temperature: '-1' is out of range; allowed: 0 to 2");
}

TEST_F(SettingsFlagsTest, UnknownFlagsGetASuggestion) {
  EXPECT_EQ(Refusal({"--pool-size-byte", "1GiB"}),
            "unknown flag '--pool-size-byte'; did you mean --pool-size-bytes?");
  EXPECT_EQ(Refusal({"--pool_size_bytes=1GiB"}),
            "unknown flag '--pool_size_bytes'; did you mean --pool-size-bytes?");
  EXPECT_EQ(Refusal({"--hlep"}), "unknown flag '--hlep'; did you mean --help?");
  EXPECT_EQ(Refusal({"--no-thread"}), "unknown flag '--no-thread'; see sample --help");
  EXPECT_EQ(Refusal({"--zzzzzzzz"}), "unknown flag '--zzzzzzzz'; see sample --help");
  EXPECT_EQ(Refusal({"--\x1b[2J"}), "unknown flag '--\\x1b[2J'; see sample --help");
  EXPECT_EQ(Refusal({"--"}), "unexpected argument '--'; settings are written --name VALUE");
  EXPECT_EQ(Refusal({"-v"}), "unexpected argument '-v'; settings are written --name VALUE");
  EXPECT_EQ(Refusal({"--verify", "false"}), "unexpected argument 'false'; write --verify=false");
}

TEST_F(SettingsFlagsTest, RefusesWhatIsMissingOrGivenTwice) {
  EXPECT_EQ(Refusal({"--threads"}), "--threads: a value is missing; expected 1 to 256");
  EXPECT_EQ(Refusal({"--model", "--verify"}), "--model: a value is missing; expected TEXT");
  EXPECT_EQ(Refusal({"--threads", "1", "--threads=1"}), "--threads: given a second time");
  EXPECT_EQ(Refusal({"--verify", "--no-verify"}), "--verify: given a second time");
  EXPECT_EQ(Refusal({"--config", "a", "--config", "b"}), "--config: given a second time");
  EXPECT_EQ(Refusal({"--config="}), "--config: the path is empty");
  EXPECT_EQ(Refusal({"--no-verify=true"}), "--no-verify: takes no value");
  EXPECT_EQ(Refusal({"--help=me"}), "--help: takes no value");
  EXPECT_THAT(Refusal(std::vector<std::string>(1025, "--verify")), HasSubstr("at most 1024"));
}

TEST_F(SettingsFlagsTest, EachKindNamesTheValueAndWhatIsAllowed) {
  EXPECT_EQ(Refusal({"--pool-size-bytes", "10 GB"}),
            "--pool-size-bytes: '10 GB' is not a number of bytes; write for example 512MiB, 10GB "
            "or 1048576; allowed: 1MiB to 1TiB");
  EXPECT_EQ(Refusal({"--pool-size-bytes", "1KiB"}),
            "--pool-size-bytes: '1KiB' is out of range; allowed: 1MiB to 1TiB");
  EXPECT_EQ(Refusal({"--heartbeat-interval", "2m"}),
            "--heartbeat-interval: '2m' is out of range; allowed: 10ms to 1m");
  EXPECT_EQ(Refusal({"--threads", "two"}),
            "--threads: 'two' is not a whole number; write for example 8; allowed: 1 to 256");
  EXPECT_EQ(Refusal({"--threads", "0"}), "--threads: '0' is out of range; allowed: 1 to 256");
  EXPECT_EQ(Refusal({"--threads", "257"}), "--threads: '257' is out of range; allowed: 1 to 256");
  EXPECT_EQ(Refusal({"--verify=maybe"}),
            "--verify: 'maybe' is not a truth value; write true or false");
  EXPECT_EQ(Refusal({"--mode", "lockstpe"}),
            "--mode: 'lockstpe' is not a choice; allowed: async, lockstep; did you mean "
            "'lockstep'?");
  EXPECT_EQ(Refusal({"--policies", "a,b,c,d,e"}),
            "--policies: a list of 5 items; allowed: 1 to 4 items");
  EXPECT_EQ(Refusal({"--policies="}), "--policies: a list of 0 items; allowed: 1 to 4 items");
  EXPECT_EQ(Refusal({"--policies", "a,,b"}), "--policies: the list has an empty item");
  EXPECT_EQ(Refusal({"--listen", "7400"}),
            "--listen: '7400' is not an address; write host:port, for example 127.0.0.1:7400, "
            "[::1]:7400 or :7400");
  EXPECT_EQ(Refusal({"--model", "a\nb"}),
            "--model: 'a\\nb' holds a control character or is not UTF-8");
  EXPECT_EQ(Refusal({"--model", std::string(4097, 'a')}),
            "--model: text of 4097 bytes; allowed: at most 4096");
  EXPECT_THAT(Refusal({"--formats", "int3"}), AllOf(HasSubstr("--formats: "), HasSubstr("nvfp4")));
  EXPECT_EQ(Refusal({"--quotas", "acme=2GiB"}),
            "--quotas: 'acme=2GiB' is not of the form NAME.FIELD=VALUE");
  EXPECT_EQ(Refusal({"--quotas", "a.bytes=1KiB,a.bytes=2KiB"}),
            "--quotas: a: bytes: set a second time");
  EXPECT_EQ(Refusal({"--quotas", "a.size=1KiB"}),
            "--quotas: a: unknown field 'size'; allowed: bytes, owner");
}

TEST_F(SettingsFlagsTest, ConflictsNameBothSidesAndTheirOrigins) {
  EXPECT_EQ(Refusal({"--heartbeat-interval", "1s"}),
            "conflict: lease_length '1500ms' (default) and heartbeat_interval '1s' "
            "(--heartbeat-interval): a lease must be at least three heartbeats long");
}

TEST_F(SettingsFlagsTest, HelpAndVersionWinOverBadValues) {
  EXPECT_EQ(*Parse({"--threads", "0", "--help"}), SettingsAction::kHelp);
  EXPECT_EQ(*Parse({"-h"}), SettingsAction::kHelp);
  EXPECT_EQ(*Parse({"--version"}), SettingsAction::kVersion);
  EXPECT_EQ(*Parse({"--check-config", "--version", "--help"}), SettingsAction::kHelp);
  EXPECT_EQ(*Parse({"--check-config"}), SettingsAction::kCheckConfig);
  EXPECT_THAT(Refusal({"--check-config", "--threads", "0"}), HasSubstr("out of range"));
}

TEST_F(SettingsFlagsTest, HelpShowsSectionsDefaultsRangesUnitsAndExamples) {
  const std::string help = table_.Help();
  for (const char* part :
       {"A sample program.", "USAGE\n  sample [--flag VALUE ...]", "NETWORK\n", "MEMORY\n",
        "  --pool-size-bytes BYTES\n      Size of the page pool.\n      Allowed: 1MiB to 1TiB. "
        "Default: 512MiB. Example: 2GiB\n",
        "  --[no-]verify\n", "Allowed: async, lockstep. Default: async.", "--config FILE",
        "--check-config", "UNITS\n",
        "EXAMPLES\n  # A shard for exact tests.\n  sample --pool-size-bytes 2GiB --mode lockstep",
        "EXIT CODES"}) {
    EXPECT_THAT(help, HasSubstr(part));
  }
  for (size_t at = 0; at < help.size();) {
    const size_t end = help.find('\n', at);
    ASSERT_NE(end, std::string::npos);
    EXPECT_LE(end - at, 100u) << help.substr(at, end - at);
    at = end + 1;
  }
}

TEST_F(SettingsFlagsTest, TheCheckedConfigurationCanBeReadAgain) {
  ASSERT_TRUE(Parse({"--model", "a \"quoted\\\" name", "--policies", "full,x y", "--quotas",
                     "a.b.bytes=2GiB,a.b.owner=x: {y}"})
                  .ok());
  const std::string yaml = table_.EffectiveYaml();
  EXPECT_THAT(yaml, HasSubstr("pool_size_bytes: 512MiB  # default\n"));
  SampleSettings again;
  SettingsTable table("sample", "A sample program.");
  AddSampleSettings(&table, &again);
  ASSERT_TRUE(ReadSettingsText(yaml, "effective.yaml", &table).ok())
      << ReadSettingsText(yaml, "effective.yaml", &table);
  EXPECT_EQ(again.model, settings_.model);
  EXPECT_EQ(again.policies, settings_.policies);
  EXPECT_EQ(again.listen, settings_.listen);
  EXPECT_EQ(again.formats, settings_.formats);
  EXPECT_EQ(again.quotas, settings_.quotas);
}

class LoadSettingsTest : public SettingsFlagsTest {
 protected:
  std::optional<int> Load(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "sample");
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const auto code = LoadSettings(static_cast<int>(arguments.size()), arguments.data(), &table_);
    out_ = ::testing::internal::GetCapturedStdout();
    err_ = ::testing::internal::GetCapturedStderr();
    return code;
  }

  std::string out_;
  std::string err_;
};

TEST_F(LoadSettingsTest, RunsWithoutAWord) {
  EXPECT_EQ(Load({"--threads", "4"}), std::nullopt);
  EXPECT_EQ(out_ + err_, "");
}

TEST_F(LoadSettingsTest, PutsAnswersOnStdoutAndErrorsOnStderr) {
  EXPECT_EQ(Load({"--help"}), kExitOk);
  EXPECT_THAT(out_, HasSubstr("USAGE"));
  EXPECT_EQ(err_, "");
  EXPECT_EQ(Load({"--version"}), kExitOk);
  EXPECT_THAT(out_, HasSubstr("sample 0."));
  EXPECT_EQ(Load({"--check-config"}), kExitOk);
  EXPECT_THAT(out_, HasSubstr("the configuration is valid"));
  EXPECT_EQ(Load({"--thread", "4"}), kExitUsage);
  EXPECT_EQ(out_, "");
  EXPECT_EQ(err_,
            "error: unknown flag '--thread'; did you mean --threads?\n"
            "Run 'sample --help' for all settings.\n");
}

}  // namespace
}  // namespace palimpsest
