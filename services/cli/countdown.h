// SPDX-License-Identifier: Apache-2.0
// The Countdown problems of lab/reasoner and the judge of their answers. Written from the grammar
// in lab/reasoner/README.md and from nothing else: a judge that shares code with the model, or with
// the generator of its chains, would share their mistakes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace palimpsest {

// Reach `goal` from `numbers`, each used once, with + - * / and whole numbers from 1 to 99.
struct CountdownProblem {
  std::string id = {};
  std::vector<int> numbers = {};  // 2 to 8 of them
  int goal = 0;
  std::string prompt = {};    // as the model is asked
  uint32_t chain_tokens = 0;  // of the reference chain, prompt and <eos> included; 0: not known
};

// What is wrong with an answer. A chain that was cut off has none.
enum class Verdict : uint8_t {
  kRight,
  kNoAnswer,     // no `ans`
  kUnfinished,   // no `<eos>` after it
  kWrongLength,  // not k - 1 steps
  kMalformed,    // a step that is not `x op y = r ;`
  kNotAtHand,    // a number that the problem does not have, or that was used up
  kForbidden,    // x < y, a remainder, y = 1 with * or /, or a result outside 1..99
  kWrongResult,  // arithmetic
  kWrongGoal,    // correct steps to another number
};

// "right", "no-answer", ...: for reports.
absl::string_view Name(Verdict verdict);

// Judges a chain, with or without its prompt, as words separated by blanks.
Verdict JudgeAnswer(const CountdownProblem& problem, absl::string_view chain);

// Reads JSON lines with the keys id, numbers, goal, prompt and, if known, chain_tokens. Strict: an
// unknown or missing key, a wrong type or range, a repeated id or an empty file is InvalidArgument
// that says `path:line`. `path` is for errors only.
absl::StatusOr<std::vector<CountdownProblem>> ParseProblems(absl::string_view text,
                                                            const std::string& path);
// The same from a file. NotFound or InvalidArgument when it cannot be read.
absl::StatusOr<std::vector<CountdownProblem>> ReadProblems(const std::string& path);

}  // namespace palimpsest
