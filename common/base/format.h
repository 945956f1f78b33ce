// SPDX-License-Identifier: Apache-2.0
// Precisions a slot can be stored in. How many bytes each takes is kernels/layout.h's business.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/thought.h"

namespace palimpsest {

enum class Format : uint8_t { kBf16 = 0, kFp8 = 1, kNvfp4 = 2, kTernary = 3, kInt4 = 4 };

inline constexpr int kFormatCount = 5;
inline constexpr std::array<Format, kFormatCount> kFormats = {
    Format::kBf16, Format::kFp8, Format::kNvfp4, Format::kTernary, Format::kInt4};

// "bf16", "fp8", "nvfp4", "ternary", "int4".
absl::string_view Name(Format format);

// Reads a name as `Name` writes it. InvalidArgument lists the allowed names.
absl::StatusOr<Format> ParseFormat(absl::string_view name);

// K and V of a page may differ: K nvfp4 with V ternary is a useful pair.
struct PageFormat {
  Format k = Format::kBf16;
  Format v = Format::kBf16;
  bool operator==(const PageFormat&) const = default;
};

// Which format each thought class is written in, indexed by Index(Thought).
struct ClassFormats {
  std::array<PageFormat, kThoughtCount> by_thought;

  const PageFormat& of(Thought thought) const { return by_thought[Index(thought)]; }
  bool operator==(const ClassFormats&) const = default;

  static constexpr ClassFormats Uniform(PageFormat format) { return {{format, format, format}}; }
  // ThinKV's experiments: R nvfp4, E nvfp4, T ternary.
  static constexpr ClassFormats R4E4T2() {
    constexpr PageFormat kFour = {Format::kNvfp4, Format::kNvfp4};
    return {{PageFormat{Format::kTernary, Format::kTernary}, kFour, kFour}};
  }
};

// "bf16" or "nvfp4/ternary" (K/V) for every class, or "R=nvfp4,E=nvfp4,T=ternary/ternary".
// `R4E4T2` is accepted as a name. InvalidArgument shows the grammar.
absl::StatusOr<ClassFormats> ParseClassFormats(absl::string_view text);
std::string ToString(const ClassFormats& formats);

}  // namespace palimpsest
