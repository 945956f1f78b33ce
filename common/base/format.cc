// SPDX-License-Identifier: Apache-2.0
#include "common/base/format.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"

namespace palimpsest {
namespace {

constexpr std::array<absl::string_view, kFormatCount> kNames = {"bf16", "fp8", "nvfp4", "ternary",
                                                                "int4"};

absl::StatusOr<PageFormat> ParsePageFormat(absl::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(text, '/');
  if (parts.size() > 2) {
    return absl::InvalidArgumentError(absl::StrCat("format '", text, "': expected K or K/V"));
  }
  KV_ASSIGN_OR_RETURN(const Format k, ParseFormat(parts.front()));
  KV_ASSIGN_OR_RETURN(const Format v, ParseFormat(parts.back()));
  return PageFormat{k, v};
}

std::string ToString(const PageFormat& format) {
  if (format.k == format.v) return std::string(Name(format.k));
  return absl::StrCat(Name(format.k), "/", Name(format.v));
}

absl::Status GrammarError(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "formats '", text, "': expected one of ", absl::StrJoin(kNames, ", "),
      ", a K/V pair such as ", "nvfp4/ternary, the name R4E4T2, or all of R=...,E=...,T=..."));
}

}  // namespace

absl::string_view Name(Format format) { return kNames[static_cast<size_t>(format)]; }

absl::StatusOr<Format> ParseFormat(absl::string_view name) {
  for (const Format format : kFormats) {
    if (Name(format) == name) return format;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("format '", name, "': expected one of ", absl::StrJoin(kNames, ", ")));
}

absl::StatusOr<ClassFormats> ParseClassFormats(absl::string_view text) {
  if (text == "R4E4T2") return ClassFormats::R4E4T2();
  if (text.find('=') == absl::string_view::npos) {
    const absl::StatusOr<PageFormat> format = ParsePageFormat(text);
    if (!format.ok()) return GrammarError(text);
    return ClassFormats::Uniform(*format);
  }
  ClassFormats formats;
  unsigned seen = 0;
  for (absl::string_view item : absl::StrSplit(text, ',')) {
    const std::vector<absl::string_view> sides = absl::StrSplit(item, '=');
    if (sides.size() != 2) return GrammarError(text);
    const absl::StatusOr<PageFormat> format = ParsePageFormat(sides[1]);
    if (!format.ok()) return GrammarError(text);
    for (const Thought thought : kThoughts) {
      if (sides[0] != Letter(thought)) continue;
      formats.by_thought[Index(thought)] = *format;
      seen |= 1u << Index(thought);
    }
  }
  if (seen != 0b111) return GrammarError(text);
  return formats;
}

std::string ToString(const ClassFormats& formats) {
  const auto& by = formats.by_thought;
  if (by[0] == by[1] && by[1] == by[2]) return ToString(by[0]);
  return absl::StrCat("R=", ToString(formats.of(Thought::kReasoning)),
                      ",E=", ToString(formats.of(Thought::kExecution)),
                      ",T=", ToString(formats.of(Thought::kTransition)));
}

}  // namespace palimpsest
