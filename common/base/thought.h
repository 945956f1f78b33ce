// SPDX-License-Identifier: Apache-2.0
// The three kinds of thought (ThinKV, section 3) and the page class each one is stored in.
#pragma once

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace palimpsest {

// Importance rises with the value: T < E < R (ThinKV: rho = 0, 1, 2).
enum class Thought : uint8_t { kTransition = 0, kExecution = 1, kReasoning = 2 };

inline constexpr int kThoughtCount = 3;
inline constexpr std::array<Thought, kThoughtCount> kThoughts = {
    Thought::kTransition, Thought::kExecution, Thought::kReasoning};

inline constexpr int Index(Thought thought) { return static_cast<int>(thought); }

// One letter, as the paper writes it: "T", "E", "R".
inline constexpr absl::string_view Letter(Thought thought) {
  constexpr absl::string_view kLetters = "TER";
  return kLetters.substr(static_cast<size_t>(thought), 1);
}

}  // namespace palimpsest
