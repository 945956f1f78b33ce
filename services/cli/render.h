// SPDX-License-Identifier: Apache-2.0
// Figures as people read them: numbers with units, bars, timelines of thought, tables. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "services/cli/terminal.h"

namespace palimpsest::cli {

std::string HumanCount(uint64_t count);    // 28,412
std::string HumanBytes(uint64_t bytes);    // 4.1 MiB
std::string HumanSeconds(double seconds);  // 850 us, 12.5 ms, 48 s, 3 min 05 s, 2 h 10 min
// ", about 48 s left", where `share` (0 to 1) of the work took `seconds`; "" within the first one.
std::string TimeLeft(double share, double seconds);
std::string HumanPercent(double percent);  // 9.87 %, 100.0 %; "-" for what is not a number
// `part` of `whole` in per cent; not a number when there is no whole.
double PercentOf(double part, double whole);

// `share` (0 to 1) of `width` columns filled.
StyledLine Bar(double share, int width, bool utf8, Style style);
// Several shares of one bar, in order; what is left of `width` stays empty.
struct Share {
  double share = 0;
  Style style = Style::kPlain;
  char letter = '#';  // where there is no colour to tell them apart
};
StyledLine StackedBar(absl::Span<const Share> shares, int width, const Terminal& terminal);

// The newest `width` letters, each thought in its colour, with an ellipsis when older ones are cut.
StyledLine Timeline(absl::string_view letters, int width, bool utf8);

// Rows under headings. Too wide for the terminal it is turned on its side, and if that does not
// help it becomes one `heading: value` line a cell.
struct Table {
  struct Column {
    std::string heading;
    bool right = true;
  };
  std::vector<Column> columns;
  std::vector<std::vector<std::string>> rows;
};
std::string ToText(const Table& table, int columns);

// `text` in lines of at most `columns`, broken at blanks.
std::string Wrapped(absl::string_view text, int columns, absl::string_view indent);

}  // namespace palimpsest::cli
