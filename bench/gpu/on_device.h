// SPDX-License-Identifier: Apache-2.0
// The end of every GPU benchmark's main: its exit code.
#pragma once

#include <functional>

#include "absl/status/statusor.h"

namespace palimpsest::bench {

// Runs a benchmark and returns its exit code: 1 and the reason when it fails, 77 and the reason
// when there is no GPU to run it on.
int OnDevice(const char* program, const std::function<absl::StatusOr<int>()>& run);

}  // namespace palimpsest::bench
