// SPDX-License-Identifier: Apache-2.0
// Quantiles of the last 4,096 samples, exact, in fixed memory.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <vector>

#include "common/rpc/messages.h"

namespace palimpsest {

class LagWindow {
 public:
  void Add(std::chrono::nanoseconds lag) {
    samples_[next_] = static_cast<uint64_t>(std::max<int64_t>(lag.count(), 0));
    next_ = (next_ + 1) % kSamples;
    count_ = std::min(count_ + 1, kSamples);
  }

  Quantiles Compute() const {
    if (count_ == 0) return {};
    std::vector<uint64_t> sorted(samples_.begin(), samples_.begin() + count_);
    std::sort(sorted.begin(), sorted.end());
    const auto at = [&](size_t percent) { return sorted[(count_ - 1) * percent / 100]; };
    return {.count = count_,
            .p50_ns = at(50),
            .p90_ns = at(90),
            .p99_ns = at(99),
            .max_ns = sorted.back()};
  }

 private:
  static constexpr size_t kSamples = 4096;
  std::array<uint64_t, kSamples> samples_{};
  size_t next_ = 0;
  size_t count_ = 0;
};

}  // namespace palimpsest
