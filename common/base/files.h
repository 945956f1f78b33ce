// SPDX-License-Identifier: Apache-2.0
// Small files read and written whole. Errors name the path.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace palimpsest {

// Reads a file of at most `bytes_max` bytes. NotFound, ResourceExhausted when it is larger, or
// Unavailable.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path, size_t bytes_max);

// Makes `bytes` the content of `path`. Whoever reads meanwhile, or after a crash, finds the file
// whole, old or new: the bytes are on disk under `path`.tmp before that is renamed. Unavailable
// when the folder is missing, full or not ours to write; no .tmp stays behind then.
absl::Status ReplaceFile(const std::string& path, absl::string_view bytes);

}  // namespace palimpsest
