// SPDX-License-Identifier: Apache-2.0
// What keeps policy pure: the sources of common/policy include nothing that could bring a
// device, a clock, I/O, a lock or randomness.
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <string_view>

#include "gtest/gtest.h"

namespace palimpsest {
namespace {

const std::set<std::string, std::less<>>& AllowedHeaders() {
  static const auto* const kAllowed =
      new std::set<std::string, std::less<>>{"<algorithm>",
                                             "<array>",
                                             "<cmath>",
                                             "<cstddef>",
                                             "<cstdint>",
                                             "<functional>",
                                             "<limits>",
                                             "<memory>",
                                             "<numeric>",
                                             "<optional>",
                                             "<string>",
                                             "<utility>",
                                             "<vector>",
                                             "\"absl/status/status.h\"",
                                             "\"absl/status/statusor.h\"",
                                             "\"absl/types/span.h\"",
                                             "\"common/base/check.h\"",
                                             "\"common/base/format.h\"",
                                             "\"common/base/limits.h\"",
                                             "\"common/base/selector.h\"",
                                             "\"common/base/status_macros.h\"",
                                             "\"common/base/svg.h\"",
                                             "\"common/base/thought.h\""};
  return *kAllowed;
}

bool IsAllowed(std::string_view header) {
  return AllowedHeaders().contains(header) || header.starts_with("\"absl/strings/") ||
         header.starts_with("\"common/policy/");
}

TEST(PolicySources, IncludeOnlyWhatCannotTouchTheOutsideWorld) {
  int headers = 0;
  for (const auto& entry : std::filesystem::directory_iterator(PALIMPSEST_POLICY_SOURCES)) {
    const auto& path = entry.path();
    if (path.extension() != ".h" && path.extension() != ".cc") continue;
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
      constexpr std::string_view kInclude = "#include ";
      if (!line.starts_with(kInclude)) continue;
      ++headers;
      EXPECT_TRUE(IsAllowed(std::string_view(line).substr(kInclude.size())))
          << path << ": " << line;
    }
  }
  EXPECT_GT(headers, 40) << "the sources were not found";
}

}  // namespace
}  // namespace palimpsest
