// SPDX-License-Identifier: Apache-2.0
// A short name for a model's exact weights, so that what was measured on one model (a calibration)
// is never applied to another.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace palimpsest {

// 32 hex digits: XXH3 (128 bit) over config.json and, for each file of weights by name, its size,
// its first and last MiB and 62 MiB-sized samples spread between them. Reading all of a large model
// would take minutes; what is fine-tuned changes nearly every tensor. Other files of the folder do
// not count: what is measured on a model may lie beside it.
// NotFound when the folder has no config.json or no weights; InvalidArgument for a bad index.
absl::StatusOr<std::string> FingerprintModel(const std::string& folder);

}  // namespace palimpsest
