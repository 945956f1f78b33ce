// SPDX-License-Identifier: Apache-2.0
#include "common/base/files.h"

#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace palimpsest {
namespace {

using testing::HasSubstr;

class Files : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }

  bool AnythingUnfinished() const { return std::filesystem::exists(path_ + ".tmp"); }

  const std::string folder_ = testing::TempDir() + "palimpsest_files_test";
  const std::string path_ = folder_ + "/file";
};

TEST_F(Files, WhatIsWrittenIsRead) {
  const std::string bytes("a\0\n\xff", 4);
  for (const std::string& text : {std::string("longer than what follows"), bytes, std::string()}) {
    ASSERT_EQ(ReplaceFile(path_, text), absl::OkStatus());
    EXPECT_EQ(*ReadWholeFile(path_, text.size()), text);
    EXPECT_FALSE(AnythingUnfinished());
  }
}

TEST_F(Files, WhatIsMissingOrTooLargeIsRefusedByName) {
  const absl::Status missing = ReadWholeFile(path_, 4).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr(path_));
  ASSERT_EQ(ReplaceFile(path_, "12345"), absl::OkStatus());
  const absl::Status large = ReadWholeFile(path_, 4).status();
  EXPECT_EQ(large.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(large.message()), HasSubstr("5 bytes, at most 4 allowed"));
}

TEST_F(Files, WhatCannotBeWrittenLeavesWhatWasThere) {
  const absl::Status nowhere = ReplaceFile(folder_ + "/none/file", "x");
  EXPECT_EQ(nowhere.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(nowhere.message()), HasSubstr("none/file"));

  std::filesystem::create_directories(path_ + "/inside");  // nothing is renamed over a folder
  EXPECT_EQ(ReplaceFile(path_, "x").code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(std::filesystem::exists(path_ + "/inside"));
  EXPECT_FALSE(AnythingUnfinished());
}

}  // namespace
}  // namespace palimpsest
