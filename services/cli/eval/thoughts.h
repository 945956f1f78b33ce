// SPDX-License-Identifier: Apache-2.0
// Which kind of thought each word of the reasoner's chain is. The model's task tells
// (lab/reasoner/README.md), so that pictures show thoughts as they are and not as they were
// labelled.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace palimpsest::cli {

// Runs of R, E and T, in words (which are tokens), of a chain without its prompt.
struct ThoughtRun {
  char kind = 'R';
  uint32_t words = 0;
};
std::vector<ThoughtRun> CountdownThoughts(absl::string_view chain);

// "R44E47T12", for records; of a text that is none, nothing.
std::string ToText(const std::vector<ThoughtRun>& runs);
std::vector<ThoughtRun> ParseThoughts(absl::string_view text);

}  // namespace palimpsest::cli
