// SPDX-License-Identifier: Apache-2.0
#include "services/cli/line_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/json_lines.h"
#include "services/cli/terminal.h"

namespace palimpsest::cli {

absl::string_view WholeLines(absl::string_view text) {
  return text.substr(0, text.rfind('\n') + 1);  // nothing where there is none
}

LineFile::~LineFile() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<std::string> LineFile::Open(absl::string_view flag, const std::string& path,
                                           LineWriters writers) {
  name_ = absl::StrCat(flag, " ", Escaped(path));
  fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name_, ": cannot be written to: ", std::strerror(errno)));
  }
  if (writers == LineWriters::kOne && flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(name_, ": another process is writing it"));
  }
  KV_ASSIGN_OR_RETURN(std::string text, ReadTextFile(path));
  bytes_ = text.size();
  whole_bytes_ = WholeLines(text).size();
  return text;
}

absl::Status LineFile::DropCutOffLine() {
  if (whole_bytes_ == bytes_ || ftruncate(fd_, static_cast<off_t>(whole_bytes_)) == 0) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat(name_, ": ", std::strerror(errno)));
}

absl::Status LineFile::Append(absl::string_view line) {
  // One write a line: those of several processes do not mix.
  if (fd_ < 0 || WriteAll(fd_, absl::StrCat(line, "\n"))) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(name_, ": ", std::strerror(errno)));
}

}  // namespace palimpsest::cli
