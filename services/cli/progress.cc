// SPDX-License-Identifier: Apache-2.0
#include "services/cli/progress.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/cli/render.h"

namespace palimpsest::cli {
namespace {

constexpr std::chrono::seconds kLineInterval{5};
constexpr std::chrono::milliseconds kFrameInterval{200};

}  // namespace

Progress::Progress(const Clock* clock, bool quiet)
    : clock_(clock), quiet_(quiet), block_(STDERR_FILENO) {}

void Progress::Show(const std::function<std::vector<StyledLine>(const Terminal&)>& frame,
                    const std::function<std::string()>& line) {
  if (quiet_) return;
  const Clock::Time now = clock_->Now();
  if (now < next_) return;
  const Terminal terminal = ProbeTerminal(STDERR_FILENO);
  if (terminal.live) {
    next_ = now + kFrameInterval;
    block_.Draw(terminal, frame(terminal));
    return;
  }
  next_ = now + kLineInterval;
  WriteAll(STDERR_FILENO, line() + "\n");
}

void Progress::ShowBar(absl::string_view verb, double share,
                       const std::function<std::string()>& text) {
  Show(
      [&](const Terminal& terminal) {
        const std::string beside = absl::StrCat(" ", text());
        const int room = terminal.columns - 1 - DisplayWidth(beside);
        StyledLine line = Bar(share, std::clamp(room, 4, 32), terminal.utf8, Style::kReasoning);
        line.push_back({Style::kPlain, beside});
        return std::vector<StyledLine>{line};
      },
      [&] { return absl::StrCat(verb, ": ", text()); });
}

void Progress::Say(absl::string_view line) {
  block_.Clear();
  WriteAll(STDERR_FILENO, absl::StrCat(line, "\n"));
}

void Progress::Note(absl::string_view line) {
  if (!quiet_) Say(line);
}

}  // namespace palimpsest::cli
