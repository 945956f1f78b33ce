// SPDX-License-Identifier: Apache-2.0
#include "common/base/text.h"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace palimpsest {
namespace {

// Length of the well-formed UTF-8 sequence at the front of `text` with its code point, or 0.
size_t DecodeUtf8(absl::string_view text, uint32_t* code_point) {
  const auto byte = [&text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) {
    *code_point = lead;
    return 1;
  }
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return 0;
  uint32_t value = lead & (0xFFu >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    value = value << 6 | (byte(i) & 0x3Fu);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
  if (value < kSmallest[length] || value > 0x10FFFF || surrogate) return 0;
  *code_point = value;
  return length;
}

bool IsPrintable(uint32_t code_point) {
  if (code_point < 0x20 || (code_point >= 0x7F && code_point < 0xA0)) return false;
  const bool line_break = code_point == 0x2028 || code_point == 0x2029;
  const bool direction = (code_point >= 0x200E && code_point <= 0x200F) ||
                         (code_point >= 0x202A && code_point <= 0x202E) ||
                         (code_point >= 0x2066 && code_point <= 0x2069);
  return !line_break && !direction;
}

void AppendEscapedByte(char c, std::string* out) {
  switch (c) {
    case '\n':
      *out += "\\n";
      return;
    case '\r':
      *out += "\\r";
      return;
    case '\t':
      *out += "\\t";
      return;
    case '\\':
      *out += "\\\\";
      return;
    default:
      absl::StrAppendFormat(out, "\\x%02x", static_cast<uint8_t>(c));
  }
}

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

std::string Folded(absl::string_view word) {
  std::string folded(word);
  for (char& c : folded) {
    c = c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return folded;
}

}  // namespace

std::string Escaped(absl::string_view text, size_t bytes_max) {
  std::string out;
  size_t at = 0;
  while (at < text.size() && at < bytes_max) {
    uint32_t code_point = 0;
    const size_t length = DecodeUtf8(text.substr(at), &code_point);
    if (length > 0 && IsPrintable(code_point) && code_point != '\\') {
      absl::StrAppend(&out, text.substr(at, length));
      at += length;
      continue;
    }
    for (size_t i = 0; i < std::max<size_t>(length, 1); ++i) AppendEscapedByte(text[at + i], &out);
    at += std::max<size_t>(length, 1);
  }
  if (at < text.size()) absl::StrAppend(&out, "...(+", text.size() - at, " bytes)");
  return out;
}

bool IsPlainText(absl::string_view text) {
  while (!text.empty()) {
    uint32_t code_point = 0;
    const size_t length = DecodeUtf8(text, &code_point);
    if (length == 0 || !IsPrintable(code_point)) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string Quoted(absl::string_view text) { return absl::StrCat("'", Escaped(text, 64), "'"); }

std::string Nearest(absl::string_view word, const std::vector<std::string>& candidates) {
  constexpr size_t kWordBytesMax = 64;  // longer ones are no typing error
  if (word.empty() || word.size() > kWordBytesMax) return "";
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(Folded(word), Folded(candidate));
    if (distance >= best_distance || distance >= candidate.size()) continue;
    best = candidate;
    best_distance = distance;
  }
  return best;
}

}  // namespace palimpsest
