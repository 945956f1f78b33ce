// SPDX-License-Identifier: Apache-2.0
// A file of results that grows by a line each, so that a run that was cut off finds what it need
// not do again. Whoever is stopped while it writes leaves whole lines, or a last one without its
// end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace palimpsest::cli {

// `text` without what follows its last line's end.
absl::string_view WholeLines(absl::string_view text);

enum class LineWriters : uint8_t { kOne, kMany };

class LineFile {
 public:
  LineFile() = default;
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;
  ~LineFile();

  // Makes the file where there is none, and returns all it holds, which stays as it is. Errors name
  // `flag` and the path: InvalidArgument when it cannot be written to, FailedPrecondition while
  // another process writes it, unless there may be many.
  absl::StatusOr<std::string> Open(absl::string_view flag, const std::string& path,
                                   LineWriters writers);
  // Drops the line without an end that Open found, if there was one.
  absl::Status DropCutOffLine();
  // Unavailable when it cannot be written. Keeps nothing where no file is open.
  absl::Status Append(absl::string_view line);

 private:
  std::string name_;  // flag and path
  int fd_ = -1;
  size_t bytes_ = 0, whole_bytes_ = 0;  // found by Open
};

}  // namespace palimpsest::cli
