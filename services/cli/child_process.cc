// SPDX-License-Identifier: Apache-2.0
#include "services/cli/child_process.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/text.h"

namespace palimpsest::cli {
namespace {

constexpr int kTermWaitMs = 2000;
constexpr size_t kOutputBytesMax = 1u << 20;
constexpr int kExecFailed = 127;

// The first or, with `from_end`, the last part of a memory file.
std::string ReadFile(int fd, bool from_end) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return "";
  const auto size = static_cast<size_t>(info.st_size);
  std::string text(std::min(size, kOutputBytesMax), '\0');
  const off_t start = from_end ? static_cast<off_t>(size - text.size()) : 0;
  const ssize_t got = pread(fd, text.data(), text.size(), start);
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return text;
}

// Between fork and exec: only what is safe in a copy of a process.
[[noreturn]] void BecomeChild(pid_t parent, int out, int err, char* const* arguments) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kExecFailed);  // the parent died before the line above
  setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  execv(arguments[0], arguments);
  const char* const reason = strerror(errno);
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, reason, strlen(reason));
  _exit(kExecFailed);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(
    const std::string& program, const std::vector<std::string>& arguments) {
  const std::string name = program.substr(program.rfind('/') + 1);
  const int out = memfd_create("stdout", MFD_CLOEXEC);
  const int err = memfd_create("stderr", MFD_CLOEXEC);
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = out < 0 || err < 0 ? -1 : fork();
  if (pid == 0) BecomeChild(parent, out, err, argv.data());
  if (pid < 0) {
    const std::string reason = std::strerror(errno);
    close(out);
    close(err);
    return absl::InternalError(absl::StrCat(name, ": cannot be started: ", reason));
  }
  return std::unique_ptr<ChildProcess>(new ChildProcess(name, pid, out, err));
}

ChildProcess::~ChildProcess() {
  if (!Reap(WNOHANG)) {
    kill(pid_, SIGTERM);
    kill(pid_, SIGCONT);  // a stopped child would not notice
    for (int waited = 0; waited < kTermWaitMs && !Reap(WNOHANG); waited += 10) usleep(10'000);
  }
  if (!wait_status_.has_value()) {
    kill(pid_, SIGKILL);
    Reap(0);
  }
  close(out_);
  close(err_);
}

bool ChildProcess::Reap(int options) {
  if (wait_status_.has_value()) return true;
  int status = 0;
  pid_t got = -1;
  do {
    got = waitpid(pid_, &status, options);
  } while (got < 0 && errno == EINTR);
  if (got == 0) return false;
  wait_status_ = got == pid_ ? status : 0;
  return true;
}

std::optional<std::string> ChildProcess::FindLine(absl::string_view prefix) const {
  const std::string text = ReadFile(out_, /*from_end=*/false);
  const absl::string_view complete = absl::string_view(text).substr(0, text.rfind('\n') + 1);
  for (const absl::string_view line : absl::StrSplit(complete, '\n')) {
    if (line.substr(0, prefix.size()) == prefix) return std::string(line.substr(prefix.size()));
  }
  return std::nullopt;
}

std::optional<std::string> ChildProcess::Ended() {
  if (!Reap(WNOHANG)) return std::nullopt;
  if (WIFSIGNALED(*wait_status_)) {
    return absl::StrCat("was killed by signal ", WTERMSIG(*wait_status_));
  }
  return absl::StrCat("ended with exit code ", WEXITSTATUS(*wait_status_));
}

std::string ChildProcess::Obituary() {
  const std::optional<std::string> ended = Ended();
  if (!ended.has_value()) return "";
  std::string last;
  for (const absl::string_view line : absl::StrSplit(ReadFile(err_, /*from_end=*/true), '\n')) {
    if (line.find_first_not_of(" \t\r") == absl::string_view::npos) continue;
    // "Run '... --help'" follows an error and says nothing of it.
    if (line.substr(0, 5) != "Run '") last = std::string(line);
  }
  return absl::StrCat(name_, " (pid ", pid_, ") ", *ended,
                      last.empty() ? "" : "; its last words: ", Escaped(last, 400));
}

}  // namespace palimpsest::cli
