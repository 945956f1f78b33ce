// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/build_info.h"
#include "gtest/gtest.h"

namespace palimpsest::cli {

// Compares with a reviewed file; PALIMPSEST_UPDATE_GOLDEN=1 writes it anew.
inline void ExpectGolden(const std::string& name, std::string text) {
  text = absl::StrReplaceAll(text, {{std::string(BuildCommit()), "COMMIT"}});
  const std::string path = absl::StrCat("tests/cli/golden/", name);
  if (std::getenv("PALIMPSEST_UPDATE_GOLDEN") != nullptr) std::ofstream(path) << text;
  std::ifstream file(path);
  std::ostringstream golden;
  golden << file.rdbuf();
  EXPECT_EQ(text, golden.str()) << "compare with " << path;
}

}  // namespace palimpsest::cli
