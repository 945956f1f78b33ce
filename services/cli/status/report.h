// SPDX-License-Identifier: Apache-2.0
// What `palimpsest status` says, made of what the processes answered. Pure.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/values.h"
#include "services/cli/client/messages.h"
#include "services/cli/terminal.h"

namespace palimpsest::cli {

struct StoreAnswer {
  Endpoint endpoint;
  absl::StatusOr<StoreStatus> status = absl::UnknownError("not asked");
};

struct WorkerAnswer {
  Endpoint endpoint;
  absl::StatusOr<WorkerStatus> status = absl::UnknownError("not asked");
  double tokens_per_second = 0;  // over a short sample
};

struct SystemReport {
  std::vector<StoreAnswer> stores;
  std::vector<WorkerAnswer> workers;
  bool sequences = false;  // list them
};

// Why it is not well; empty: healthy. An unreachable part is a reason.
std::vector<std::string> Complaints(const SystemReport& report);
// What is worth knowing although it is healthy, such as another version than this program's.
std::vector<std::string> Remarks(const SystemReport& report);

// The verdict is the first line. Parts that did not answer are shown as `?`.
std::vector<StyledLine> StatusLines(const SystemReport& report, const Terminal& terminal);
// `pretty` over several lines, else in one. Ends with a line break.
std::string StatusJson(const SystemReport& report, bool pretty);

}  // namespace palimpsest::cli
