// SPDX-License-Identifier: Apache-2.0
// Time is injected, so that deadlines can be tested without waiting for them.
#pragma once

#include <chrono>
#include <memory>

namespace palimpsest {

// Monotonic time. Lengths, never dates: leases and deadlines do not depend on the wall clock.
class Clock {
 public:
  using Duration = std::chrono::nanoseconds;
  using Time = std::chrono::time_point<std::chrono::steady_clock, Duration>;

  virtual ~Clock() = default;
  virtual Time Now() const = 0;
};

std::unique_ptr<Clock> NewSteadyClock();

}  // namespace palimpsest
