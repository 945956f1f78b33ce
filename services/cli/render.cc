// SPDX-License-Identifier: Apache-2.0
#include "services/cli/render.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/base/check.h"

namespace palimpsest::cli {
namespace {

Style StyleOf(char letter) {
  switch (letter) {
    case 'R':
      return Style::kReasoning;
    case 'E':
      return Style::kExecution;
    case 'T':
      return Style::kTransition;
    default:
      return Style::kDim;
  }
}

std::string Repeated(absl::string_view text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) absl::StrAppend(&out, text);
  return out;
}

std::string Padded(absl::string_view text, int width, bool right) {
  const std::string blanks(std::max(0, width - DisplayWidth(text)), ' ');
  return right ? absl::StrCat(blanks, text) : absl::StrCat(text, blanks);
}

std::string Trimmed(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

std::vector<int> ColumnWidths(const Table& table) {
  std::vector<int> widths;
  for (size_t i = 0; i < table.columns.size(); ++i) {
    int width = DisplayWidth(table.columns[i].heading);
    for (const auto& row : table.rows) {
      KV_CHECK(row.size() == table.columns.size());
      width = std::max(width, DisplayWidth(row[i]));
    }
    widths.push_back(width);
  }
  return widths;
}

int WidthOf(const Table& table) {
  int total = -2;
  for (const int width : ColumnWidths(table)) total += width + 2;
  return total;
}

std::string Grid(const Table& table) {
  const std::vector<int> widths = ColumnWidths(table);
  const auto line = [&](const auto& cell) {
    std::string text;
    for (size_t i = 0; i < widths.size(); ++i) {
      absl::StrAppend(&text, i > 0 ? "  " : "", Padded(cell(i), widths[i], table.columns[i].right));
    }
    return absl::StrCat(Trimmed(text), "\n");
  };
  std::string out = line([&](size_t i) { return table.columns[i].heading; });
  for (const auto& row : table.rows) out += line([&](size_t i) { return row[i]; });
  return out;
}

std::string Records(const Table& table) {
  std::string out;
  for (size_t row = 0; row < table.rows.size(); ++row) {
    if (row > 0) out += "\n";
    for (size_t i = 0; i < table.columns.size(); ++i) {
      absl::StrAppend(&out, table.columns[i].heading, ": ", table.rows[row][i], "\n");
    }
  }
  return out;
}

}  // namespace

std::string HumanCount(uint64_t count) {
  const std::string digits = absl::StrCat(count);
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string HumanBytes(uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1023.5 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat(unit == 0 || value >= 99.95 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
}

std::string HumanSeconds(double seconds) {
  if (!std::isfinite(seconds)) return "-";
  if (seconds <= 0) return "0 s";
  if (seconds < 0.9995e-3) return absl::StrFormat("%.0f us", seconds * 1e6);
  if (seconds < 0.09995) return absl::StrFormat("%.1f ms", seconds * 1e3);
  if (seconds < 0.9995) return absl::StrFormat("%.0f ms", seconds * 1e3);
  if (seconds < 9.95) return absl::StrFormat("%.1f s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 60) return absl::StrFormat("%d s", whole);
  if (whole < 3600) return absl::StrFormat("%d min %02d s", whole / 60, whole % 60);
  return absl::StrFormat("%d h %02d min", whole / 3600, whole / 60 % 60);
}

std::string TimeLeft(double share, double seconds) {
  if (seconds < 1) return "";
  const double left = share > 0 ? std::max(0.0, 1.0 - share) * seconds / share : 0.0;
  return absl::StrCat(", about ", HumanSeconds(left), " left");
}

std::string HumanPercent(double percent) {
  if (!std::isfinite(percent)) return "-";
  return absl::StrFormat(std::abs(percent) < 9.995 ? "%.2f %%" : "%.1f %%", percent);
}

double PercentOf(double part, double whole) {
  return whole > 0 ? 100.0 * part / whole : std::numeric_limits<double>::quiet_NaN();
}

StyledLine Bar(double share, int width, bool utf8, Style style) {
  constexpr std::array<absl::string_view, 8> kEighths = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  width = std::max(0, width);
  const double filled = std::isfinite(share) ? std::clamp(share, 0.0, 1.0) * width : 0.0;
  if (!utf8) {
    const int whole = static_cast<int>(std::lround(filled));
    return {{style, std::string(whole, '#')}, {Style::kDim, std::string(width - whole, '.')}};
  }
  const int eighths = static_cast<int>(std::lround(filled * 8));
  const absl::string_view part = kEighths[eighths % 8];
  const int whole = eighths / 8;
  return {{style, absl::StrCat(Repeated("█", whole), part)},
          {Style::kDim, Repeated("░", width - whole - (part.empty() ? 0 : 1))}};
}

StyledLine StackedBar(absl::Span<const Share> shares, int width, const Terminal& terminal) {
  StyledLine bar;
  double sum = 0;
  int drawn = 0;
  for (const Share& share : shares) {
    sum += std::isfinite(share.share) ? share.share : 0.0;
    const int end = static_cast<int>(std::lround(std::clamp(sum, 0.0, 1.0) * width));
    const bool block = terminal.colour && terminal.utf8;
    bar.push_back({share.style, block ? Repeated("█", end - drawn)
                                      : std::string(std::max(0, end - drawn), share.letter)});
    drawn = std::max(drawn, end);
  }
  bar.push_back({Style::kDim, Repeated(terminal.utf8 ? "░" : ".", width - drawn)});
  return bar;
}

StyledLine Timeline(absl::string_view letters, int width, bool utf8) {
  StyledLine line;
  if (width <= 0) return line;
  if (static_cast<int>(letters.size()) > width) {
    letters.remove_prefix(letters.size() - std::max(0, width - 1));
    line.push_back({Style::kDim, utf8 ? "…" : "<"});
  }
  for (const char letter : letters) {
    if (line.empty() || line.back().style != StyleOf(letter)) line.push_back({StyleOf(letter), ""});
    line.back().text += letter;
  }
  return line;
}

namespace {

// Rows become columns: the headings stand at the left, the first column's cells on top.
Table Transposed(const Table& table) {
  Table turned;
  turned.columns.push_back({table.columns[0].heading, false});
  for (const auto& row : table.rows) turned.columns.push_back({row[0], true});
  for (size_t i = 1; i < table.columns.size(); ++i) {
    turned.rows.push_back({table.columns[i].heading});
    for (const auto& row : table.rows) turned.rows.back().push_back(row[i]);
  }
  return turned;
}

}  // namespace

std::string ToText(const Table& table, int columns) {
  if (WidthOf(table) <= columns) return Grid(table);
  const Table turned = Transposed(table);
  return WidthOf(turned) <= columns ? Grid(turned) : Records(table);
}

std::string Wrapped(absl::string_view text, int columns, absl::string_view indent) {
  std::string out, line(indent);
  const int width = std::min(columns, 100);
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    const bool fresh = line.size() == indent.size();
    if (!fresh && DisplayWidth(line) + 1 + DisplayWidth(word) > width) {
      absl::StrAppend(&out, line, "\n");
      line.assign(indent.data(), indent.size());
    }
    absl::StrAppend(&line, line.size() == indent.size() ? "" : " ", word);
  }
  return absl::StrCat(out, line, "\n");
}

}  // namespace palimpsest::cli
