// SPDX-License-Identifier: Apache-2.0
// How a demo looks while it runs. Pure: from how it stands to lines, so that tests can read them.
#pragma once

#include <string>
#include <vector>

#include "services/cli/demo/runner.h"
#include "services/cli/render.h"
#include "services/cli/terminal.h"

namespace palimpsest::cli {

// What is known beside the run under way.
struct DemoOutline {
  std::string title;                // "14 problems · lab/reasoner/model"
  std::vector<RunResult> finished;  // runs that are over, in order
  std::vector<std::string> labels;  // of all runs
};

// The picture that is redrawn in place, for a live terminal.
std::vector<StyledLine> DemoFrame(const DemoOutline& outline, const RunProgress& progress,
                                  const Terminal& terminal);

// The same in one line, for logs and pipes.
std::string DemoLine(const RunProgress& progress);

}  // namespace palimpsest::cli
