// SPDX-License-Identifier: Apache-2.0
#include "common/base/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace palimpsest {
namespace {

absl::Status FromErrno(absl::string_view path) {
  return absl::UnavailableError(absl::StrCat(path, ": ", std::strerror(errno)));
}

absl::Status WriteAndSync(int fd, const std::string& path, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) return FromErrno(path);
    if (written > 0) bytes.remove_prefix(static_cast<size_t>(written));
  }
  return fsync(fd) == 0 ? absl::OkStatus() : FromErrno(path);
}

absl::Status WriteNewFile(const std::string& path, absl::string_view bytes) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return FromErrno(path);
  const absl::Status written = WriteAndSync(fd, path, bytes);
  close(fd);
  return written;
}

}  // namespace

absl::StatusOr<std::string> ReadWholeFile(const std::string& path, size_t bytes_max) {
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(path, error);
  if (error) return absl::NotFoundError(absl::StrCat(path, ": ", error.message()));
  if (bytes > bytes_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": ", bytes, " bytes, at most ", bytes_max, " allowed"));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(bytes, '\0');
  if (!file.read(text.data(), static_cast<std::streamsize>(bytes))) {
    return absl::UnavailableError(absl::StrCat(path, ": cannot be read"));
  }
  return text;
}

absl::Status ReplaceFile(const std::string& path, absl::string_view bytes) {
  const std::string unfinished = path + ".tmp";
  absl::Status status = WriteNewFile(unfinished, bytes);
  if (status.ok() && std::rename(unfinished.c_str(), path.c_str()) != 0) status = FromErrno(path);
  if (!status.ok()) unlink(unfinished.c_str());
  return status;
}

}  // namespace palimpsest
