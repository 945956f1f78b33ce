// SPDX-License-Identifier: Apache-2.0
#include "common/base/task_team.h"

#include "common/base/check.h"

namespace palimpsest {
namespace {

constexpr uint64_t kNextMask = 0xffff;
constexpr int kTasksShift = 16;
constexpr int kRoundShift = 32;

// A pause is about 40 cycles: helpers watch for about 50 us, as long as a layer's attention takes
// in a small step, and callers wait about 5 us for a straggler before they offer it their core.
constexpr int kHelperSpins = 4000;
constexpr int kCallerSpins = 400;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

constexpr bool HasTask(uint64_t ticket) {
  return (ticket & kNextMask) < ((ticket >> kTasksShift) & kNextMask);
}

}  // namespace

TaskTeam::TaskTeam(int threads) {
  KV_CHECK(threads >= 1);
  for (int thread = 1; thread < threads; ++thread) {
    helpers_.emplace_back([this, thread] { HelperLoop(thread); });
  }
}

TaskTeam::~TaskTeam() {
  stopping_ = true;
  ticket_ += uint64_t{1} << kRoundShift;  // changes the word sleepers wait on
  ticket_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void TaskTeam::Run(int tasks, Work work) {
  KV_CHECK(tasks >= 1 && tasks <= kTasksMax);
  if (helpers_.empty() || tasks == 1) {
    for (int task = 0; task < tasks; ++task) work(task, 0);
    return;
  }
  work_ = &work;
  done_.store(0, std::memory_order_relaxed);
  const uint64_t round = (ticket_.load(std::memory_order_relaxed) >> kRoundShift) + 1;
  // Sequentially consistent with Sleep's increment: either the sleeper sees this ticket, or we see
  // the sleeper.
  ticket_.store(round << kRoundShift | static_cast<uint64_t>(tasks) << kTasksShift);
  if (sleepers_.load() > 0) ticket_.notify_all();
  while (RunOne(0)) {
  }
  for (int spins = 0; done_.load(std::memory_order_acquire) < tasks; ++spins) {
    if (spins < kCallerSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

bool TaskTeam::RunOne(int thread) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (HasTask(ticket)) {
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    (*work_)(static_cast<int>(ticket & kNextMask), thread);
    done_.fetch_add(1, std::memory_order_acq_rel);
    return true;
  }
  return false;
}

void TaskTeam::HelperLoop(int thread) {
  int idle = 0;
  while (!stopping_.load(std::memory_order_relaxed)) {
    if (RunOne(thread)) {
      idle = 0;
    } else if (++idle < kHelperSpins) {
      Pause();
    } else {
      Sleep(ticket_.load());
      idle = 0;
    }
  }
}

void TaskTeam::Sleep(uint64_t seen) {
  if (HasTask(seen)) return;
  sleepers_.fetch_add(1);
  if (!stopping_.load()) ticket_.wait(seen);
  sleepers_.fetch_sub(1);
}

}  // namespace palimpsest
