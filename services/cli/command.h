// SPDX-License-Identifier: Apache-2.0
// A verb of the command line, and what all verbs share: how errors are told and which exit code
// they end with.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/base/settings.h"
#include "services/cli/client/event_loop.h"

namespace palimpsest::cli {

// Each takes the arguments after the verb and returns the exit code.
int RunDemo(const std::vector<std::string>& arguments);
int RunEval(const std::vector<std::string>& arguments);
int RunStatus(const std::vector<std::string>& arguments);
int RunCalibrate(const std::vector<std::string>& arguments);
int RunLikelihood(const std::vector<std::string>& arguments);

// LoadSettings for a verb. A list's flag may be repeated: `--budget 1 --budget 2` is `--budget
// 1,2`.
std::optional<int> LoadVerbSettings(const std::vector<std::string>& arguments,
                                    SettingsTable* table);

// "error: ..." on stderr, and the exit code of its kind. Says nothing of Cancelled: Ctrl-C is
// known.
int Fail(const absl::Status& status);

// What a verb has come to.
struct VerbEnd {
  absl::Status status = {};
  std::string text = {};  // its result; may be there in part when it has failed
  int exit_code = 0;      // where the status is OK
};

// Runs a verb that waits for other processes, and tells its end once everything that `run` has made
// is gone: children are reaped, the terminal is restored. Returns the exit code, or dies of the
// signal that came.
int RunWithLoop(const std::function<VerbEnd(EventLoop&)>& run);
// The same for a verb that computes in this process and looks for Interrupted itself.
int RunInProcess(const std::function<VerbEnd()>& run);

// Writes the result. When nobody reads any more, ends like any filter does: silently, by SIGPIPE.
void PrintResult(absl::string_view text);

}  // namespace palimpsest::cli
