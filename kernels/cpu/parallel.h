// SPDX-License-Identifier: Apache-2.0
// One parallel loop, on the team that the matrix products use as well: two teams on the same cores
// would spin against each other.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/base/task_team.h"

namespace palimpsest {

// Calls body(i) for i in [0, count), each once; returns when all are done. Bodies must write to
// places of their own, so that results do not depend on the number of threads.
template <typename Body>
void ParallelFor(TaskTeam& team, int64_t count, const Body& body) {
  for (int64_t first = 0; first < count; first += TaskTeam::kTasksMax) {
    const int64_t tasks = std::min<int64_t>(count - first, TaskTeam::kTasksMax);
    team.Run(static_cast<int>(tasks), [&](int task, int) { body(first + task); });
  }
}

}  // namespace palimpsest
