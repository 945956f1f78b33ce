// SPDX-License-Identifier: Apache-2.0
#include "common/base/clock.h"

namespace palimpsest {
namespace {

class SteadyClock final : public Clock {
 public:
  Time Now() const override { return std::chrono::steady_clock::now(); }
};

}  // namespace

std::unique_ptr<Clock> NewSteadyClock() { return std::make_unique<SteadyClock>(); }

}  // namespace palimpsest
