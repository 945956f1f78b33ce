// SPDX-License-Identifier: Apache-2.0
#include "services/cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace palimpsest::cli {
namespace {

absl::string_view CodeOf(Style style) {
  switch (style) {
    case Style::kPlain:
      return "";
    case Style::kBold:
      return "\x1b[1m";
    case Style::kDim:
      return "\x1b[2m";
    case Style::kGood:
      return "\x1b[32m";
    case Style::kWarning:
      return "\x1b[33m";
    case Style::kBad:
      return "\x1b[1;31m";
    case Style::kReasoning:
      return "\x1b[1;36m";
    case Style::kExecution:
      return "\x1b[32m";
    case Style::kTransition:
      return "\x1b[35m";
    case Style::kFormat16:
      return "\x1b[37m";
    case Style::kFormat8:
      return "\x1b[33m";
    case Style::kFormat4:
      return "\x1b[36m";
    case Style::kFormat2:
      return "\x1b[35m";
  }
  return "";
}

std::string Environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool LocaleIsUtf8() {
  for (const char* const name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const std::string value = absl::AsciiStrToLower(Environment(name));
    if (!value.empty())
      return absl::StrContains(value, "utf-8") || absl::StrContains(value, "utf8");
  }
  return false;
}

// Bytes of the UTF-8 sequence that `lead` starts; broken text advances by one.
size_t SequenceBytes(unsigned char lead) {
  return lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
}

// U+1100 to U+115F, and U+2E80 to U+FFxx but for our own signs, are two columns wide.
int WidthOf(absl::string_view sequence) {
  if (sequence.size() < 3) return 1;
  const auto lead = static_cast<unsigned char>(sequence[0]);
  const auto next = static_cast<unsigned char>(sequence[1]);
  const bool wide = lead >= 0xE3 || (lead == 0xE2 && next >= 0xBA) ||
                    (lead == 0xE1 && next >= 0x84 && next <= 0x85);
  return wide ? 2 : 1;
}

// The longest prefix of `text` that fits `columns`; its width is stored.
absl::string_view Prefix(absl::string_view text, int columns, int* width) {
  size_t at = 0;
  *width = 0;
  while (at < text.size()) {
    const size_t bytes =
        std::min(SequenceBytes(static_cast<unsigned char>(text[at])), text.size() - at);
    const int wide = WidthOf(text.substr(at, bytes));
    if (*width + wide > columns) break;
    *width += wide;
    at += bytes;
  }
  return text.substr(0, at);
}

}  // namespace

Terminal ProbeTerminal(int fd) {
  Terminal terminal{.fd = fd};
  terminal.utf8 = LocaleIsUtf8();
  const std::string kind = Environment("TERM");
  const bool tty = isatty(fd) == 1;
  terminal.live = tty && !kind.empty() && kind != "dumb";
  terminal.colour = terminal.live && Environment("NO_COLOR").empty();
  terminal.columns = tty ? 80 : kColumnsMax;
  winsize size{};
  if (tty && ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    terminal.columns = std::clamp<int>(size.ws_col, kColumnsMin, kColumnsMax);
    terminal.rows = std::max<int>(size.ws_row, 4);
  }
  return terminal;
}

int DisplayWidth(absl::string_view text) {
  int width = 0;
  Prefix(text, INT32_MAX, &width);
  return width;
}

std::string Clipped(absl::string_view text, int columns, bool utf8) {
  int width = 0;
  if (DisplayWidth(text) <= columns) return std::string(text);
  const absl::string_view ellipsis = utf8 ? "…" : "..";
  const int room = std::max(0, columns - DisplayWidth(ellipsis));
  return absl::StrCat(Prefix(text, room, &width), ellipsis);
}

std::string Rendered(const StyledLine& line, int columns, bool colour) {
  std::string out;
  int left = columns;
  for (const Span& span : line) {
    int width = 0;
    const absl::string_view shown = Prefix(span.text, left, &width);
    const absl::string_view code = colour ? CodeOf(span.style) : "";
    absl::StrAppend(&out, code, shown, code.empty() ? "" : "\x1b[0m");
    left -= width;
    if (shown.size() < span.text.size()) break;
  }
  return out;
}

bool WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

// A terminal made narrower since has wrapped the old lines onto more rows.
std::string LiveBlock::GoToTop(int columns) const {
  int rows = 0;
  for (const int width : widths_) rows += std::max(1, (width + columns - 1) / columns);
  return rows == 0 ? "\r" : absl::StrCat("\r\x1b[", rows, "A");
}

void LiveBlock::Draw(const Terminal& terminal, const std::vector<StyledLine>& lines) {
  // One write a frame, bracketed as one update for terminals that know it: no flicker.
  std::string frame = "\x1b[?2026h";
  if (!shown_) frame += "\x1b[?25l";
  frame += GoToTop(terminal.columns);
  // One column less than there are: writing into the last one wraps on some terminals.
  const int columns = terminal.columns - 1;
  std::vector<int> widths;
  for (const StyledLine& line : lines) {
    if (static_cast<int>(widths.size()) >= terminal.rows - 1) break;
    absl::StrAppend(&frame, Rendered(line, columns, terminal.colour), "\x1b[K\r\n");
    widths.push_back(DisplayWidth(Rendered(line, columns, false)));
  }
  frame += "\x1b[J\x1b[?2026l";
  WriteAll(fd_, frame);
  widths_ = std::move(widths);
  shown_ = true;
}

void LiveBlock::Clear() {
  if (!shown_) return;
  WriteAll(fd_, absl::StrCat(GoToTop(ProbeTerminal(fd_).columns), "\x1b[J\x1b[?25h"));
  widths_.clear();
  shown_ = false;
}

}  // namespace palimpsest::cli
