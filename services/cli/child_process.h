// SPDX-License-Identifier: Apache-2.0
// A child that cannot outlive us: it is killed and reaped by the destructor, and by the kernel
// should we die without running one. What it prints is kept in memory files, so it never blocks.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace palimpsest::cli {

class ChildProcess {
 public:
  // Starts `program` with `arguments`, in its own process group: Ctrl-C reaches it through us.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(
      const std::string& program, const std::vector<std::string>& arguments);
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();  // SIGTERM, SIGKILL after 2 s; returns when it is reaped

  pid_t pid() const { return pid_; }
  // The rest of the first stdout line that starts with `prefix`, once it is complete.
  std::optional<std::string> FindLine(absl::string_view prefix) const;
  // How it ended, or nothing while it runs: "ended with exit code 2", "was killed by signal 9".
  std::optional<std::string> Ended();
  // "palimpsest-decode (pid 12) was killed by signal 9; its last words: ...", or "" while it runs.
  std::string Obituary();

 private:
  ChildProcess(std::string name, pid_t pid, int out, int err)
      : name_(std::move(name)), pid_(pid), out_(out), err_(err) {}
  bool Reap(int options);

  std::string name_;
  pid_t pid_;
  int out_, err_;  // memory files
  std::optional<int> wait_status_;
};

}  // namespace palimpsest::cli
