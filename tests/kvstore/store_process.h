// SPDX-License-Identifier: Apache-2.0
// A real palimpsest-kvstore as a child process.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "common/base/check.h"

namespace palimpsest {

class StoreProcess {
 public:
  explicit StoreProcess(std::vector<std::string> arguments) {
    int out[2];
    KV_CHECK(::pipe(out) == 0);
    pid_ = ::fork();
    KV_CHECK(pid_ >= 0);
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // or, left behind by a crash, it would hold ctest's pipe
      ::dup2(out[1], STDOUT_FILENO);
      ::close(out[0]);
      ::close(out[1]);
      std::vector<char*> argv = {const_cast<char*>(PALIMPSEST_KVSTORE_BINARY)};
      for (std::string& argument : arguments) argv.push_back(argument.data());
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(out[1]);
    FILE* stream = ::fdopen(out[0], "r");
    char line[256];
    // "listening on 127.0.0.1:40123"
    if (std::fgets(line, sizeof line, stream) != nullptr) port_ = PortOf(line);
    if (std::fgets(line, sizeof line, stream) != nullptr) metrics_port_ = PortOf(line);
    std::fclose(stream);
  }

  ~StoreProcess() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  StoreProcess(const StoreProcess&) = delete;
  StoreProcess& operator=(const StoreProcess&) = delete;

  uint16_t port() const { return port_; }
  uint16_t metrics_port() const { return metrics_port_; }
  void Signal(int signal) const { ::kill(pid_, signal); }

  // Waits for its end, at most `deadline`. The exit code, 128 + signal, or -1 when it still runs.
  int Wait(std::chrono::milliseconds deadline) {
    const auto until = std::chrono::steady_clock::now() + deadline;
    while (std::chrono::steady_clock::now() < until) {
      int status = 0;
      if (::waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = 0;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return -1;
  }

  // Resident memory, KiB.
  long ResidentKib() const {
    FILE* file = std::fopen(("/proc/" + std::to_string(pid_) + "/statm").c_str(), "r");
    long size = 0;
    long resident = 0;
    if (file == nullptr) return 0;
    if (std::fscanf(file, "%ld %ld", &size, &resident) != 2) resident = 0;
    std::fclose(file);
    return resident * 4;
  }

 private:
  static uint16_t PortOf(const std::string& line) {
    const size_t colon = line.rfind(':');
    return colon == std::string::npos ? uint16_t{0}
                                      : static_cast<uint16_t>(std::atoi(line.c_str() + colon + 1));
  }

  pid_t pid_ = 0;
  uint16_t port_ = 0;
  uint16_t metrics_port_ = 0;
};

}  // namespace palimpsest
