// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/thoughts.h"

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace palimpsest::cli {

std::vector<ThoughtRun> CountdownThoughts(absl::string_view chain) {
  std::vector<ThoughtRun> runs;
  char kind = 'R';
  for (const absl::string_view word : absl::StrSplit(chain, ' ', absl::SkipEmpty())) {
    if (word == "plan" || word == "try" || word == "yes" || word == "ans") kind = 'R';
    if (word == "dead" || word == "back") kind = 'T';
    if (runs.empty() || runs.back().kind != kind) runs.push_back({kind, 0});
    ++runs.back().words;
    // What follows a plan, or a review, and is neither, is worked out.
    if (word == ".") kind = 'E';
  }
  return runs;
}

std::string ToText(const std::vector<ThoughtRun>& runs) {
  std::string text;
  for (const ThoughtRun& run : runs) {
    text += run.kind;
    absl::StrAppend(&text, run.words);
  }
  return text;
}

std::vector<ThoughtRun> ParseThoughts(absl::string_view text) {
  std::vector<ThoughtRun> runs;
  while (!text.empty()) {
    ThoughtRun run{.kind = text[0]};
    size_t end = 1;
    while (end < text.size() && absl::ascii_isdigit(static_cast<unsigned char>(text[end]))) ++end;
    const bool known = run.kind == 'R' || run.kind == 'E' || run.kind == 'T';
    if (!known || !absl::SimpleAtoi(text.substr(1, end - 1), &run.words)) return {};
    runs.push_back(run);
    text.remove_prefix(end);
  }
  return runs;
}

}  // namespace palimpsest::cli
