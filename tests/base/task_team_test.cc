// SPDX-License-Identifier: Apache-2.0
#include "common/base/task_team.h"

#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace palimpsest {
namespace {

TEST(TaskTeam, RunsEachTaskOnceAndShowsItsEffectsWhateverTheSizes) {
  for (const int threads : {1, 2, 3, 8}) {
    TaskTeam team(threads);
    for (int round = 0; round < 3000; ++round) {
      std::vector<int> runs(1 + round % 17, 0);  // plain ints: Run must order them
      team.Run(static_cast<int>(runs.size()), [&](int task, int thread) {
        ASSERT_LT(thread, threads);
        ++runs[task];
      });
      ASSERT_EQ(runs, std::vector<int>(runs.size(), 1)) << threads << " threads, round " << round;
    }
  }
}

TEST(TaskTeam, HelpersThatWentToSleepAreWokenAndLeaveWhenTheTeamGoes) {
  TaskTeam team(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::vector<int> runs(64, 0);
    team.Run(64, [&](int task, int) { ++runs[task]; });
    EXPECT_EQ(std::accumulate(runs.begin(), runs.end(), 0), 64);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(5));  // destroyed while they sleep
}

}  // namespace
}  // namespace palimpsest
