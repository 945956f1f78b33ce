// SPDX-License-Identifier: Apache-2.0
#include "common/base/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace palimpsest {
namespace {

TEST(EscapedTest, LeavesPrintableTextAlone) {
  EXPECT_EQ(Escaped("Grüße, 页 🙂"), "Grüße, 页 🙂");
}

TEST(EscapedTest, WritesControlCharactersOut) {
  EXPECT_EQ(Escaped("a\nb\tc\rd\\e"), "a\\nb\\tc\\rd\\\\e");
  EXPECT_EQ(Escaped(absl::string_view("\0\x1b[2J\x7f", 6)), "\\x00\\x1b[2J\\x7f");
  EXPECT_EQ(Escaped("\xC2\x9B"), "\\xc2\\x9b") << "C1 control";
  EXPECT_EQ(Escaped("\xE2\x80\xAE"), "\\xe2\\x80\\xae") << "right-to-left override";
  EXPECT_EQ(Escaped("\xE2\x80\xA8"), "\\xe2\\x80\\xa8") << "line separator";
}

TEST(EscapedTest, WritesBytesThatAreNotUtf8Out) {
  EXPECT_EQ(Escaped("\xFF\xFE"), "\\xff\\xfe");
  EXPECT_EQ(Escaped("\xC0\xAF"), "\\xc0\\xaf") << "overlong";
  EXPECT_EQ(Escaped("\xED\xA0\x80"), "\\xed\\xa0\\x80") << "surrogate";
  EXPECT_EQ(Escaped("\xF4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80") << "past U+10FFFF";
  EXPECT_EQ(Escaped("a\xE9"), "a\\xe9") << "cut off";
}

TEST(EscapedTest, CountsWhatIsTooLong) {
  EXPECT_EQ(Escaped(std::string(100, 'a'), 3), "aaa...(+97 bytes)");
  EXPECT_EQ(Escaped("abc", 3), "abc");
}

TEST(QuotedTest, QuotesAndClips) {
  EXPECT_EQ(Quoted("10 GB"), "'10 GB'");
  EXPECT_EQ(Quoted(std::string(70, 'x')), "'" + std::string(64, 'x') + "...(+6 bytes)'");
}

TEST(NearestTest, FindsTheTypingError) {
  const std::vector<std::string> keys = {"pool_size_bytes", "listen", "log_level"};
  EXPECT_EQ(Nearest("pool_size_byte", keys), "pool_size_bytes");
  EXPECT_EQ(Nearest("Pool-Size-Bytes", keys), "pool_size_bytes");
  EXPECT_EQ(Nearest("lisen", keys), "listen");
  EXPECT_EQ(Nearest("temperature", keys), "");
  EXPECT_EQ(Nearest("", keys), "");
  EXPECT_EQ(Nearest(std::string(1000, 'l'), keys), "");
}

}  // namespace
}  // namespace palimpsest
