// SPDX-License-Identifier: Apache-2.0
// What the benchmarks' flags take: checked before anything is measured, the flag and its range
// named.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/format.h"
#include "kernels/layout.h"

namespace palimpsest::bench::flags {

inline CLI::Validator Whole(uint32_t low, uint32_t high) { return CLI::Range(low, high); }

// Of an engine, and of one call of a kernel.
inline CLI::Validator Batch() { return Whole(1, 8192); }
inline CLI::Validator KernelBatch() { return Whole(1, 512); }
inline CLI::Validator ChainTokens() { return Whole(64, 1 << 20); }
inline CLI::Validator Steps() { return Whole(1, 1 << 16); }
inline CLI::Validator Seconds() { return CLI::Range(0.001, 60.0); }

// Tokens that fill groups.
inline CLI::Validator Groups(uint32_t low, uint32_t high) {
  const std::string what =
      absl::StrCat("a multiple of ", kGroupTokens, " from ", low, " to ", high);
  const auto check = [=](const std::string& text) -> std::string {
    uint32_t tokens = 0;
    const bool fine = absl::SimpleAtoi(text, &tokens) && tokens >= low && tokens <= high &&
                      tokens % kGroupTokens == 0;
    return fine ? "" : absl::StrCat("'", text, "' is not ", what);
  };
  return CLI::Validator(check, what);
}

inline CLI::Validator Formats() {
  const auto check = [](const std::string& text) {
    return std::string(ParseClassFormats(text).status().message());
  };
  return CLI::Validator(check, "FORMATS");
}

}  // namespace palimpsest::bench::flags
