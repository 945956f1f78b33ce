// SPDX-License-Identifier: Apache-2.0
// Writing for people: what the terminal can do, styled lines cut to its width, and a block of lines
// that is redrawn in place. Whoever writes to a pipe gets plain text.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace palimpsest::cli {

enum class Style : uint8_t {
  kPlain,
  kBold,
  kDim,
  kGood,
  kWarning,
  kBad,
  kReasoning,   // R
  kExecution,   // E
  kTransition,  // T
  kFormat16,    // bf16
  kFormat8,     // fp8
  kFormat4,     // nvfp4, int4
  kFormat2,     // ternary
};

struct Span {
  Style style = Style::kPlain;
  std::string text;
};
using StyledLine = std::vector<Span>;

// What may be written to a file descriptor.
struct Terminal {
  int fd = 2;
  bool live = false;    // a terminal that can move its cursor: not a pipe, not TERM=dumb
  bool colour = false;  // live, and NO_COLOR is not set
  bool utf8 = false;    // by the locale's environment variables
  int columns = 80;     // 20 to 400; kColumnsMax where it is no terminal
  int rows = 24;
};

inline constexpr int kColumnsMin = 20;
inline constexpr int kColumnsMax = 400;

// Looks at `fd` and the environment. Cheap: call it before each frame and a resize is noticed.
Terminal ProbeTerminal(int fd);

// Columns `text` takes; East Asian wide characters count two.
int DisplayWidth(absl::string_view text);
// `text` cut to `columns`, with an ellipsis when something is missing.
std::string Clipped(absl::string_view text, int columns, bool utf8);
// The line with escape codes if `colour`, cut to `columns`.
std::string Rendered(const StyledLine& line, int columns, bool colour);

// Writes everything; false when the reader has gone.
bool WriteAll(int fd, absl::string_view text);

// Lines at the bottom of a terminal, replaced by each Draw. The cursor is hidden from the first
// Draw on; Clear and the destructor bring it back.
class LiveBlock {
 public:
  explicit LiveBlock(int fd) : fd_(fd) {}
  LiveBlock(const LiveBlock&) = delete;
  LiveBlock& operator=(const LiveBlock&) = delete;
  ~LiveBlock() { Clear(); }

  void Draw(const Terminal& terminal, const std::vector<StyledLine>& lines);
  // Erases the block. What is printed next takes its place.
  void Clear();

 private:
  std::string GoToTop(int columns) const;

  int fd_;
  bool shown_ = false;
  std::vector<int> widths_;  // of the lines on the screen, as they were drawn
};

}  // namespace palimpsest::cli
