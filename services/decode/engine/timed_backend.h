// SPDX-License-Identifier: Apache-2.0
// A Backend that measures how long each family of kernels of another one takes, where a call's
// time is its kernel's. That of an asynchronous backend is what the launch costs and would mislead:
// nothing is measured then.
#pragma once

#include <array>
#include <memory>
#include <optional>

#include "absl/strings/string_view.h"
#include "common/base/clock.h"
#include "kernels/backend.h"

namespace palimpsest {

enum class KernelFamily : uint8_t { kAppend, kAttend, kSparsity, kSeal, kAnneal, kZero };
inline constexpr int kKernelFamilyCount = 6;
absl::string_view Name(KernelFamily family);

class TimedBackend : public Backend {
 public:
  // Seconds spent in each family since the last call; nothing for an asynchronous backend.
  virtual std::optional<std::array<double, kKernelFamilyCount>> TakeSeconds() = 0;
};

// Wraps `backend`, which it takes; `clock` outlives it.
std::unique_ptr<TimedBackend> NewTimedBackend(std::unique_ptr<Backend> backend, const Clock* clock,
                                              bool asynchronous = false);

}  // namespace palimpsest
