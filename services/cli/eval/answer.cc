// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/answer.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <regex>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "common/base/text.h"

namespace palimpsest::cli {
namespace {

constexpr size_t kRegexBytesMax = 4096;  // std::regex recurses over its input
constexpr absl::string_view kAfter = "after:", kRegex = "regex:";

// The inside of the braces that open at `at`, or nothing where they never close.
std::optional<absl::string_view> Braced(absl::string_view text, size_t at) {
  int depth = 0;
  for (size_t i = at; i < text.size(); ++i) {
    depth += text[i] == '{' ? 1 : text[i] == '}' ? -1 : 0;
    if (depth == 0) return text.substr(at + 1, i - at - 1);
  }
  return std::nullopt;
}

std::optional<std::string> FindBoxed(absl::string_view text) {
  for (const absl::string_view word : {"\\boxed", "\\fbox"}) {
    for (size_t at = text.rfind(word); at != absl::string_view::npos;
         at = at == 0 ? absl::string_view::npos : text.rfind(word, at - 1)) {
      const size_t open = text.find_first_not_of(' ', at + word.size());
      if (open == absl::string_view::npos || text[open] != '{') continue;
      // A box that is never closed was cut off; an earlier one may be whole.
      if (const auto inside = Braced(text, open)) return std::string(*inside);
    }
  }
  return std::nullopt;
}

std::optional<std::string> FindAfter(absl::string_view text, absl::string_view marker) {
  const size_t at = text.rfind(marker);
  if (at == absl::string_view::npos) return std::nullopt;
  absl::string_view rest = text.substr(at + marker.size());
  rest = absl::StripAsciiWhitespace(rest.substr(0, rest.find('\n')));
  while (absl::ConsumePrefix(&rest, "*") || absl::ConsumeSuffix(&rest, "*")) continue;
  rest = absl::StripAsciiWhitespace(rest);
  if (rest.empty()) return std::nullopt;
  return std::string(rest);
}

std::optional<std::string> FindRegex(absl::string_view text, const std::string& pattern) {
  const absl::string_view tail = text.substr(text.size() - std::min(text.size(), kRegexBytesMax));
  const std::string end(tail.data(), tail.size());
  const std::regex regex(pattern);
  std::optional<std::string> found;
  for (std::sregex_iterator match(end.begin(), end.end(), regex), none; match != none; ++match) {
    found = (*match)[match->size() > 1 ? 1 : 0].str();
  }
  return found;
}

// `\name{x}` becomes `x`, everywhere.
std::string Unwrapped(std::string text, const std::string& name) {
  for (size_t at = text.find(name); at != std::string::npos; at = text.find(name, at)) {
    const size_t open = at + name.size();
    const auto inside = open < text.size() && text[open] == '{' ? Braced(text, open) : std::nullopt;
    if (!inside.has_value()) {
      at = open;
      continue;
    }
    const std::string kept(*inside);
    text.replace(at, name.size() + kept.size() + 2, kept);
  }
  return text;
}

bool IsDigit(char letter) { return absl::ascii_isdigit(static_cast<unsigned char>(letter)); }

// `\frac12` becomes `\frac{1}{2}`, which is what it means.
std::string FractionsBraced(const std::string& text) {
  constexpr absl::string_view kFrac = "\\frac";
  std::string out;
  for (size_t at = 0; at < text.size();) {
    if (!absl::StartsWith(absl::string_view(text).substr(at), kFrac)) {
      out += text[at++];
      continue;
    }
    out.append(kFrac.data(), kFrac.size());
    at += kFrac.size();
    for (int part = 0; part < 2 && at < text.size(); ++part) {
      const auto inside = text[at] == '{' ? Braced(text, at) : std::nullopt;
      const std::string one = inside.has_value() ? std::string(*inside) : text.substr(at, 1);
      absl::StrAppend(&out, "{", one, "}");
      at += one.size() + (inside.has_value() ? 2 : 0);
    }
  }
  return out;
}

// 1,234,567 without its commas; (1,2) keeps its own.
std::string WithoutThousands(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto digits_from = [&](size_t at) {
      size_t count = 0;
      while (at + count < text.size() && IsDigit(text[at + count])) ++count;
      return count;
    };
    const bool grouping =
        text[i] == ',' && i > 0 && IsDigit(text[i - 1]) && digits_from(i + 1) == 3;
    if (!grouping) out += text[i];
  }
  return out;
}

bool IsWholeNumber(absl::string_view text) {
  absl::ConsumePrefix(&text, "-");
  return !text.empty() && std::all_of(text.begin(), text.end(), IsDigit);
}

std::string WithSlashAsFraction(const std::string& text) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos) return text;
  const std::string top = text.substr(0, slash), bottom = text.substr(slash + 1);
  if (!IsWholeNumber(top) || !IsWholeNumber(bottom)) return text;
  const bool negative = top[0] == '-';
  return absl::StrCat(negative ? "-" : "", "\\frac{", top.substr(negative ? 1 : 0), "}{", bottom,
                      "}");
}

// A number, also one written as a fraction.
std::optional<double> NumberOf(absl::string_view text) {
  double sign = 1;
  if (absl::ConsumePrefix(&text, "-")) sign = -1;
  double value = 0;
  const bool plain = !text.empty() && std::all_of(text.begin(), text.end(), [](char letter) {
    return IsDigit(letter) || letter == '.';
  });
  if (plain && absl::SimpleAtod(text, &value)) return sign * value;
  if (!absl::ConsumePrefix(&text, "\\frac") || text.empty() || text[0] != '{') return std::nullopt;
  const auto top = Braced(text, 0);
  if (!top.has_value() || top->size() + 2 >= text.size()) return std::nullopt;
  const absl::string_view rest = text.substr(top->size() + 2);
  const auto bottom = rest[0] == '{' ? Braced(rest, 0) : std::nullopt;
  double above = 0, below = 0;
  if (!bottom.has_value() || bottom->size() + 2 != rest.size()) return std::nullopt;
  if (!absl::SimpleAtod(*top, &above) || !absl::SimpleAtod(*bottom, &below) || below == 0) {
    return std::nullopt;
  }
  return sign * above / below;
}

}  // namespace

absl::StatusOr<AnswerRule> ParseAnswerRule(const std::string& text) {
  if (text == "boxed") return AnswerRule{};
  if (absl::StartsWith(text, kAfter) && text.size() > kAfter.size()) {
    return AnswerRule{AnswerRule::Kind::kMarker, text.substr(kAfter.size())};
  }
  const std::string wanted = "expected boxed, after:TEXT or regex:PATTERN";
  if (!absl::StartsWith(text, kRegex)) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(text), ": ", wanted));
  }
  const std::string pattern = text.substr(kRegex.size());
  try {  // the only way the standard library has to say that a pattern is wrong
    const std::regex regex(pattern);
  } catch (const std::regex_error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(pattern), " is no regular expression: ", error.what()));
  }
  return AnswerRule{AnswerRule::Kind::kRegex, pattern};
}

std::string ToString(const AnswerRule& rule) {
  switch (rule.kind) {
    case AnswerRule::Kind::kBoxed:
      return "boxed";
    case AnswerRule::Kind::kMarker:
      return absl::StrCat(kAfter, rule.text);
    case AnswerRule::Kind::kRegex:
      return absl::StrCat(kRegex, rule.text);
  }
  return "";
}

std::optional<std::string> FindAnswer(const AnswerRule& rule, absl::string_view text) {
  switch (rule.kind) {
    case AnswerRule::Kind::kBoxed:
      return FindBoxed(text);
    case AnswerRule::Kind::kMarker:
      return FindAfter(text, rule.text);
    case AnswerRule::Kind::kRegex:
      return FindRegex(text, rule.text);
  }
  return std::nullopt;
}

std::string Normalised(absl::string_view answer) {
  std::string text = absl::StrReplaceAll(answer, {{"\\left", ""},
                                                  {"\\right", ""},
                                                  {"\\!", ""},
                                                  {"\\,", ""},
                                                  {"\\;", ""},
                                                  {"\\ ", ""},
                                                  {"\\dfrac", "\\frac"},
                                                  {"\\tfrac", "\\frac"},
                                                  {"^\\circ", ""},
                                                  {"^{\\circ}", ""},
                                                  {"\\%", ""},
                                                  {"%", ""},
                                                  {"\\$", ""},
                                                  {"$", ""},
                                                  {"\\(", ""},
                                                  {"\\)", ""},
                                                  {"−", "-"},
                                                  {"{,}", ","}});
  for (const char* const name : {"\\text", "\\mathrm", "\\textbf", "\\mathbf", "\\mbox"}) {
    text = Unwrapped(std::move(text), name);
  }
  text.erase(std::remove_if(text.begin(), text.end(),
                            [](unsigned char letter) { return std::isspace(letter) != 0; }),
             text.end());
  while (!text.empty() && (text.back() == '.' || text.back() == ',')) text.pop_back();
  if (text.size() > 2 && text[1] == '=' &&
      absl::ascii_isalpha(static_cast<unsigned char>(text[0]))) {
    text.erase(0, 2);
  }
  if (!text.empty() && text[0] == '+') text.erase(0, 1);
  text = WithSlashAsFraction(FractionsBraced(WithoutThousands(text)));
  // A choice: (A) is A.
  if (text.size() == 3 && text.front() == '(' && text.back() == ')') text = text.substr(1, 1);
  return absl::AsciiStrToLower(text);
}

bool SameAnswer(absl::string_view found, absl::string_view wanted) {
  const std::string left = Normalised(found), right = Normalised(wanted);
  if (left == right) return !left.empty();
  const std::optional<double> a = NumberOf(left), b = NumberOf(right);
  return a.has_value() && b.has_value() && std::abs(*a - *b) <= 1e-9 * std::max(1.0, std::abs(*b));
}

}  // namespace palimpsest::cli
