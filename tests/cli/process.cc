// SPDX-License-Identifier: Apache-2.0
#include "tests/cli/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace palimpsest::cli {

std::string Slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string Folder() {
  static const std::string folder = [] {
    std::string path = testing::TempDir() + "/palimpsest-cli-XXXXXX";
    return std::string(mkdtemp(path.data()));
  }();
  return folder;
}

std::string SimulatedPrograms() {
  std::string folder = Folder() + "/bin";
  if (std::filesystem::create_directory(folder)) {
    for (const char* const name : {"palimpsest-decode", "palimpsest-kvstore"}) {
      std::filesystem::create_symlink(SIMULATED_WORKER, folder + "/" + name);
    }
  }
  return folder;
}

Process::Process(const std::string& program, const std::vector<std::string>& arguments,
                 const std::vector<std::pair<std::string, std::string>>& environment) {
  static int count = 0;
  stem_ = absl::StrCat(Folder(), "/", ++count);
  pid_ = fork();
  if (pid_ != 0) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // or, left behind by a crash, it would hold ctest's pipe
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  dup2(open((stem_ + ".out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
  dup2(open((stem_ + ".err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  _exit(127);
}

Process::~Process() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  Wait();
}

Outcome Process::Wait() {
  int status = 0;
  waitpid(std::exchange(pid_, -1), &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, WIFSIGNALED(status) ? WTERMSIG(status) : 0,
          out(), err()};
}

std::string Process::Endpoint() const {
  for (int i = 0; i < 500; ++i) {
    const std::string text = out();
    const size_t at = text.find("listening on ");
    const size_t end = text.find('\n', at);
    if (at != std::string::npos && end != std::string::npos)
      return text.substr(at + 13, end - at - 13);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  ADD_FAILURE() << "it does not listen: " << err();
  return "127.0.0.1:1";
}

Outcome Palimpsest(const std::vector<std::string>& arguments, const std::string& simulation) {
  return Process(PALIMPSEST, arguments,
                 {{"PALIMPSEST_BIN", SimulatedPrograms()}, {"PALIMPSEST_SIMULATION", simulation}})
      .Wait();
}

}  // namespace palimpsest::cli
