// SPDX-License-Identifier: Apache-2.0
// A few threads that share out the tasks of one short loop, many thousand times a second.
//
// Made for a crowded machine, where OpenMP's barriers are ruinous (with one other busy process on
// two cores a decode step of 2 ms took 260 ms): here tasks are claimed one by one, and the calling
// thread claims too, so a helper that the kernel has put aside is not waited for; the caller does
// its share. Helpers spin for some tens of microseconds after the last task, then sleep.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace palimpsest {

class TaskTeam {
 public:
  // Called once for each task in [0, tasks) with the index of the running thread, 0 for the caller.
  using Work = absl::FunctionRef<void(int task, int thread)>;

  // Starts threads - 1 helpers. REQUIRES: threads >= 1.
  explicit TaskTeam(int threads);
  ~TaskTeam();
  TaskTeam(const TaskTeam&) = delete;
  TaskTeam& operator=(const TaskTeam&) = delete;

  int threads() const { return static_cast<int>(helpers_.size()) + 1; }

  // Runs all tasks and returns when the last is done; its effects are then visible to the caller.
  // One call at a time, from one thread. REQUIRES: 1 <= tasks <= kTasksMax.
  static constexpr int kTasksMax = 0xffff;
  void Run(int tasks, Work work);

 private:
  void HelperLoop(int thread);
  bool RunOne(int thread);  // false when there is nothing to claim
  void Sleep(uint64_t seen);

  // {round: 32 bits, tasks: 16, next: 16}. One word, so that a claim can never mix two rounds.
  std::atomic<uint64_t> ticket_ = 0;
  // Keeps done_ off ticket_'s cache line. Not alignas: AddressSanitizer's stack does not keep it.
  std::array<char, 64> apart_{};
  std::atomic<int> done_ = 0;
  std::atomic<int> sleepers_ = 0;
  std::atomic<bool> stopping_ = false;
  const Work* work_ = nullptr;  // of the present round; stable while any of its tasks runs
  std::vector<std::thread> helpers_;
};

}  // namespace palimpsest
