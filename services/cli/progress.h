// SPDX-License-Identifier: Apache-2.0
// How a long verb tells how far it is, on stderr: a block that is redrawn in place on a terminal,
// or a line now and then in a log. Messages that stay go through here too, so that they do not get
// into the block.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/base/clock.h"
#include "services/cli/terminal.h"

namespace palimpsest::cli {

class Progress {
 public:
  Progress(const Clock* clock, bool quiet);

  // Only the picture that is wanted is made.
  void Show(const std::function<std::vector<StyledLine>(const Terminal&)>& frame,
            const std::function<std::string()>& line);
  // A bar, filled by `share` (0 to 1), and a text beside it; in a log the text after the verb's
  // name.
  void ShowBar(absl::string_view verb, double share, const std::function<std::string()>& text);
  // A line that stays.
  void Say(absl::string_view line);
  // The same, unless all should be quiet.
  void Note(absl::string_view line);
  void End() { block_.Clear(); }

 private:
  const Clock* clock_;
  const bool quiet_;
  LiveBlock block_;
  Clock::Time next_{};  // no picture and no line before
};

}  // namespace palimpsest::cli
