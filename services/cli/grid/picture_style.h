// SPDX-License-Identifier: Apache-2.0
// The colours that pictures of an evaluation share. They stay apart for the colour-blind.
#pragma once

#include "absl/strings/string_view.h"

namespace palimpsest::cli {

inline const char* PolicyColour(absl::string_view policy) {
  struct Entry {
    absl::string_view policy;
    const char* colour;
  };
  constexpr Entry kColours[] = {{"anticipate", "#d55e00"}, {"thinkv", "#0072b2"},
                                {"rkv", "#009e73"},        {"longflow", "#cc79a7"},
                                {"h2o", "#e69f00"},        {"window", "#56b4e9"},
                                {"random", "#7b8794"},     {"full", "#1f2933"}};
  for (const Entry& entry : kColours) {
    if (entry.policy == policy) return entry.colour;
  }
  return "#6d4c9f";
}

inline const char* ThoughtColour(char letter) {
  return letter == 'E' ? "#0072b2" : letter == 'T' ? "#009e73" : "#e69f00";
}

}  // namespace palimpsest::cli
