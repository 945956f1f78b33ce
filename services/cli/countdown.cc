// SPDX-License-Identifier: Apache-2.0
#include "services/cli/countdown.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/str_split.h"
#include "absl/types/span.h"

namespace palimpsest {
namespace {

constexpr int kValueMin = 1;
constexpr int kValueMax = 99;
constexpr size_t kWordsPerStep = 6;  // x op y = r ;

using Words = absl::Span<const absl::string_view>;

// A whole number as the vocabulary writes it: no sign, no leading zero, at most 99. Else -1.
int NumberOf(absl::string_view word) {
  int value = -1;
  const char* const end = word.data() + word.size();
  const auto [stop, error] = std::from_chars(word.data(), end, value);
  const bool whole = error == std::errc() && stop == end && word.size() <= 2;
  const bool plain = whole && (word.size() == 1 || word.front() != '0') && word.front() != '-';
  return plain ? value : -1;
}

bool Take(int value, std::vector<int>* at_hand) {
  const auto found = std::find(at_hand->begin(), at_hand->end(), value);
  if (found == at_hand->end()) return false;
  at_hand->erase(found);
  return true;
}

// The value of `x op y`, or -1 where the task forbids the step.
int Apply(int x, char op, int y) {
  if (x < y) return -1;
  int value = -1;
  if (op == '+') value = x + y;
  if (op == '-') value = x - y;
  if (op == '*' && y > 1) value = x * y;
  if (op == '/' && y > 1 && x % y == 0) value = x / y;
  return value >= kValueMin && value <= kValueMax ? value : -1;
}

Verdict JudgeStep(Words step, std::vector<int>* at_hand) {
  const int x = NumberOf(step[0]);
  const int y = NumberOf(step[2]);
  const int result = NumberOf(step[4]);
  const bool is_op =
      step[1].size() == 1 && absl::string_view("+-*/").find(step[1][0]) != absl::string_view::npos;
  if (x < 0 || y < 0 || result < 0 || !is_op || step[3] != "=" || step[5] != ";") {
    return Verdict::kMalformed;
  }
  if (!Take(x, at_hand) || !Take(y, at_hand)) return Verdict::kNotAtHand;
  const int value = Apply(x, step[1][0], y);
  if (value < 0) return Verdict::kForbidden;
  if (value != result) return Verdict::kWrongResult;
  at_hand->push_back(value);
  return Verdict::kRight;
}

}  // namespace

absl::string_view Name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kRight:
      return "right";
    case Verdict::kNoAnswer:
      return "no-answer";
    case Verdict::kUnfinished:
      return "unfinished";
    case Verdict::kWrongLength:
      return "wrong-length";
    case Verdict::kMalformed:
      return "malformed";
    case Verdict::kNotAtHand:
      return "not-at-hand";
    case Verdict::kForbidden:
      return "forbidden";
    case Verdict::kWrongResult:
      return "wrong-result";
    case Verdict::kWrongGoal:
      return "wrong-goal";
  }
  return "?";
}

Verdict JudgeAnswer(const CountdownProblem& problem, absl::string_view chain) {
  const std::vector<absl::string_view> words =
      absl::StrSplit(chain, absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty());
  const auto answer = std::find(words.begin(), words.end(), "ans");
  if (answer == words.end()) return Verdict::kNoAnswer;
  const auto end = std::find(answer, words.end(), "<eos>");
  if (end == words.end()) return Verdict::kUnfinished;
  const Words steps = Words(words).subspan(answer - words.begin() + 1, end - answer - 1);
  if (steps.size() != kWordsPerStep * (problem.numbers.size() - 1)) return Verdict::kWrongLength;
  std::vector<int> at_hand = problem.numbers;
  for (size_t at = 0; at < steps.size(); at += kWordsPerStep) {
    const Verdict verdict = JudgeStep(steps.subspan(at, kWordsPerStep), &at_hand);
    if (verdict != Verdict::kRight) return verdict;
  }
  return at_hand.front() == problem.goal ? Verdict::kRight : Verdict::kWrongGoal;
}

}  // namespace palimpsest
