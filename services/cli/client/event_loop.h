// SPDX-License-Identifier: Apache-2.0
// The one event loop of the command line: connections, time, and Ctrl-C. Single-threaded.
//
// While the loop exists, SIGINT, SIGTERM and SIGHUP do not kill: whatever waits ends early with
// Cancelled, so that children are reaped and the terminal is restored on the way out.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "common/base/clock.h"

namespace palimpsest::cli {

class EventLoop {
 public:
  struct Impl;  // event_loop_impl.h, for the files of this folder

  explicit EventLoop(Impl* impl) : impl_(impl) {}
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Lets connections work for `duration`. Cancelled at once when a signal came, now or before.
  absl::Status Run(Clock::Duration duration);
  // The signal that asks this process to end, or 0.
  int signal() const;

  Impl& impl() { return *impl_; }

 private:
  Impl* impl_;
};

// Makes the loop on this thread's stack and runs `body` with it. One at a time.
int WithEventLoop(const std::function<int(EventLoop&)>& body);

}  // namespace palimpsest::cli
