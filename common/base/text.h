// SPDX-License-Identifier: Apache-2.0
// Text that came from outside, made fit to be printed: into a terminal, a log line or an error.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace palimpsest {

// `text` as valid UTF-8 without control characters: \n, \t, \r, \\ and \xNN for the others (C0,
// DEL, C1, bidirectional overrides, bytes that are not UTF-8). Nothing that is printed can forge a
// line. At most about `bytes_max` of the input are shown; the rest is counted: "...(+123 bytes)".
std::string Escaped(absl::string_view text, size_t bytes_max = 2048);

// Whether Escaped would change nothing but backslashes.
bool IsPlainText(absl::string_view text);

// Escaped, in single quotes, short: for the value found in an error message.
std::string Quoted(absl::string_view text);

// The candidate closest to `word` (edit distance, with _ and - alike), or "" when none is close.
std::string Nearest(absl::string_view word, const std::vector<std::string>& candidates);

}  // namespace palimpsest
