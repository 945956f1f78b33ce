// SPDX-License-Identifier: Apache-2.0
// The answer in a generated text, and whether it is the one wanted. For problems whose answer is
// a number or a short expression (AIME, MATH-500); not a computer algebra system: what differs in
// more than its writing counts as wrong.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace palimpsest::cli {

// Where the answer stands. The last one counts: models correct themselves.
struct AnswerRule {
  enum class Kind : uint8_t {
    kBoxed,   // inside \boxed{...}
    kMarker,  // what follows `text` on its line
    kRegex,   // the first group of `text`, or all it matches
  };
  Kind kind = Kind::kBoxed;
  std::string text;
};

// Reads "boxed", "after:TEXT" or "regex:PATTERN" (ECMAScript). InvalidArgument says what is
// allowed.
absl::StatusOr<AnswerRule> ParseAnswerRule(const std::string& text);
std::string ToString(const AnswerRule& rule);

// Nothing when the text has no answer. A regex looks at the last 4,096 bytes only.
std::optional<std::string> FindAnswer(const AnswerRule& rule, absl::string_view text);

// Without what does not change the meaning: blanks, $, \left, \text, units of degrees and per cent,
// thousands' commas, a final full stop, `x=` in front; \dfrac as \frac, a/b as \frac{a}{b}.
std::string Normalised(absl::string_view answer);

// Whether they are the same once normalised, or the same number: 073 and 73, 0.5 and \frac12.
bool SameAnswer(absl::string_view found, absl::string_view wanted);

}  // namespace palimpsest::cli
