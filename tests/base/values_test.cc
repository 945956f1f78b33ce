// SPDX-License-Identifier: Apache-2.0
#include "common/base/values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace palimpsest {
namespace {

using std::chrono::nanoseconds;
using ::testing::HasSubstr;

TEST(ParseBytesTest, ReadsTheDocumentedForms) {
  const std::vector<std::pair<const char*, uint64_t>> cases = {
      {"0", 0},
      {"1048576", 1048576},
      {"7B", 7},
      {"3KB", 3000},
      {"3KiB", 3072},
      {"512MiB", 512ull << 20},
      {"10MB", 10'000'000},
      {"10GB", 10'000'000'000},
      {"10GiB", 10ull << 30},
      {"2TB", 2'000'000'000'000},
      {"2TiB", 2ull << 40},
      {"9223372036854775807", std::numeric_limits<int64_t>::max()}};
  for (const auto& [text, bytes] : cases) {
    ASSERT_TRUE(ParseBytes(text).ok()) << text;
    EXPECT_EQ(*ParseBytes(text), bytes) << text;
  }
}

TEST(ParseBytesTest, RefusesTheRestWithExamples) {
  for (const char* text :
       {"", " ", "10 GB", "-1", "+1", "1e99", "1.5GiB", "GiB", "10gb", "10G", "10GBB", "0x10",
        "9223372036854775808", "99999999999999999999", "8388608TiB", " 1", "1 ", "1,000", "nan"}) {
    const auto bytes = ParseBytes(text);
    ASSERT_FALSE(bytes.ok()) << text;
    EXPECT_EQ(bytes.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(bytes.status().message()), HasSubstr("512MiB, 10GB or 1048576"));
    EXPECT_THAT(std::string(bytes.status().message()), HasSubstr(text));
  }
}

TEST(ParseDurationTest, ReadsTheDocumentedForms) {
  const std::vector<std::pair<const char*, int64_t>> cases = {{"0s", 0},
                                                              {"5ns", 5},
                                                              {"5us", 5000},
                                                              {"500ms", 500'000'000},
                                                              {"2s", 2'000'000'000},
                                                              {"1m", 60'000'000'000},
                                                              {"1h", 3'600'000'000'000}};
  for (const auto& [text, count] : cases) {
    ASSERT_TRUE(ParseDuration(text).ok()) << text;
    EXPECT_EQ(*ParseDuration(text), nanoseconds(count)) << text;
  }
}

TEST(ParseDurationTest, RefusesTheRestWithExamples) {
  for (const char* text :
       {"", "5", "500 ms", "-1s", "1.5s", "s", "1d", "1S", "9999999999h", "1e3s", "2562048h"}) {
    const auto duration = ParseDuration(text);
    ASSERT_FALSE(duration.ok()) << text;
    EXPECT_THAT(std::string(duration.status().message()), HasSubstr("500ms, 2s or 1m"));
  }
}

TEST(ParseBoolTest, ReadsSixWordsAndNoOther) {
  for (const char* text : {"true", "yes", "on"}) EXPECT_TRUE(*ParseBool(text));
  for (const char* text : {"false", "no", "off"}) EXPECT_FALSE(*ParseBool(text));
  for (const char* text : {"", "1", "0", "True", "y", "maybe"}) EXPECT_FALSE(ParseBool(text).ok());
}

TEST(ParseIntegerTest, KnowsItsBounds) {
  EXPECT_EQ(*ParseInteger("-9223372036854775808"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(*ParseInteger("42"), 42);
  for (const char* text : {"", "9223372036854775808", "1.0", "1e3", "0x1", "1 ", "+1", "one"}) {
    EXPECT_FALSE(ParseInteger(text).ok()) << text;
  }
}

TEST(ParseRealTest, ReadsFiniteNumbersOnly) {
  EXPECT_EQ(*ParseReal("0.5"), 0.5);
  EXPECT_EQ(*ParseReal("-3"), -3);
  EXPECT_EQ(*ParseReal("1e-4"), 1e-4);
  for (const char* text : {"", "nan", "inf", "-inf", "1e999", "0.5x", " 1", "1,5"}) {
    EXPECT_FALSE(ParseReal(text).ok()) << text;
  }
}

TEST(ParseEndpointTest, ReadsNamesAddressesAndPorts) {
  EXPECT_EQ(*ParseEndpoint("127.0.0.1:7400"), (Endpoint{"127.0.0.1", 7400}));
  EXPECT_EQ(*ParseEndpoint("store-0.store:1"), (Endpoint{"store-0.store", 1}));
  EXPECT_EQ(*ParseEndpoint("[::1]:7400"), (Endpoint{"::1", 7400}));
  EXPECT_EQ(*ParseEndpoint("[::]:0"), (Endpoint{"::", 0}));
  EXPECT_EQ(*ParseEndpoint(":65535"), (Endpoint{"127.0.0.1", 65535})) << "loopback by default";
}

TEST(ParseEndpointTest, RefusesTheRestWithExamples) {
  for (const char* text :
       {"", "7400", "host", "host:", "host:65536", "host:-1", "host:1x", "::1:7400", "[::1]",
        "[]:1", "a b:1", "a/b:1", "[zz]:1", "host:99999999999999999999", "\n:1"}) {
    const auto endpoint = ParseEndpoint(text);
    ASSERT_FALSE(endpoint.ok()) << text;
    EXPECT_THAT(std::string(endpoint.status().message()), HasSubstr("127.0.0.1:7400"));
  }
  EXPECT_FALSE(ParseEndpoint(std::string(254, 'a') + ":1").ok());
  EXPECT_TRUE(ParseEndpoint(std::string(253, 'a') + ":1").ok());
}

TEST(FormatTest, WritesWhatTheParserReads) {
  for (const uint64_t bytes : {0ull, 1ull, 1000ull, 1024ull, 1048577ull, 10'000'000'000ull}) {
    EXPECT_EQ(*ParseBytes(FormatBytes(bytes)), bytes);
  }
  EXPECT_EQ(FormatBytes(512 << 20), "512MiB");
  EXPECT_EQ(FormatBytes(10'000'000'000), "10GB");
  for (const int64_t count : {0l, 1l, 1500l, 1'500'000'000l, 3'600'000'000'000l}) {
    EXPECT_EQ(*ParseDuration(FormatDuration(nanoseconds(count))), nanoseconds(count));
  }
  EXPECT_EQ(FormatDuration(std::chrono::milliseconds(1500)), "1500ms");
  for (const char* text : {"127.0.0.1:7400", "[::1]:7400", "store:1"}) {
    EXPECT_EQ(FormatEndpoint(*ParseEndpoint(text)), text);
  }
}

}  // namespace
}  // namespace palimpsest
