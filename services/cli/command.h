// SPDX-License-Identifier: Apache-2.0
// A verb of the command line, and what all verbs share: how errors are told and which exit code
// they end with.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/base/settings.h"

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

// Ends this process the way `signal` would have, after everything is cleaned up. Shells see it.
[[noreturn]] void DieOf(int signal);

// Writes the result. When nobody reads any more, ends like any filter does: silently, by SIGPIPE.
void PrintResult(absl::string_view text);

}  // namespace palimpsest::cli
