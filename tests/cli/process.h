// SPDX-License-Identifier: Apache-2.0
// The command line as its user has it: a process with arguments and an environment, what it says
// where, and how it ends.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

namespace palimpsest::cli {

struct Outcome {
  int code = -1;    // exit code
  int signal = 0;   // that ended it
  std::string out;  // stdout
  std::string err;  // stderr
};

std::string Slurp(const std::string& path);

// A folder of this test process.
std::string Folder();

// A folder in which both servers are the simulation.
std::string SimulatedPrograms();

class Process {
 public:
  Process(const std::string& program, const std::vector<std::string>& arguments,
          const std::vector<std::pair<std::string, std::string>>& environment = {});
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process();  // kills it

  pid_t pid() const { return pid_; }
  std::string out() const { return Slurp(stem_ + ".out"); }
  std::string err() const { return Slurp(stem_ + ".err"); }

  Outcome Wait();
  // The address of the line `listening on 127.0.0.1:PORT`.
  std::string Endpoint() const;

 private:
  std::string stem_;
  pid_t pid_;
};

// Runs `palimpsest` to its end, with simulated servers.
Outcome Palimpsest(const std::vector<std::string>& arguments, const std::string& simulation = "");

}  // namespace palimpsest::cli
