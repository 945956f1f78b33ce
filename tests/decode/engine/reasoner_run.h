// SPDX-License-Identifier: Apache-2.0
// The shipped reasoner at work: Countdown problems through the decode engine, answers judged.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "services/cli/countdown.h"
#include "services/decode/device/device.h"
#include "services/decode/engine/request.h"

namespace palimpsest {

struct ReasonerOptions {
  DeviceChoice device;
  int threads = 1;     // of the CPU
  uint32_t batch = 1;  // chains that run at once
  PolicySpec policy;
};

struct ReasonerAnswer {
  std::vector<int32_t> tokens;  // generated
  RequestStats stats;
  Verdict verdict = Verdict::kNoAnswer;
};

struct ReasonerRun {
  std::vector<ReasonerAnswer> answers;  // in the order of the problems
  double seconds = 0;                   // of the engine's steps

  uint32_t right() const;
  uint64_t tokens() const;  // generated
  // All bytes held, of those of the full bf16 cache, over all steps.
  double bytes_percent() const;
};

// Greedy decoding, admitted in the order given. There is no store: at every group boundary the
// engine makes its plan itself, and carries it out before the next token, as a worker in lockstep
// with a store does. A chain may grow a quarter longer than its reference before it is cut off.
absl::StatusOr<ReasonerRun> RunReasoner(absl::Span<const CountdownProblem> problems,
                                        const ReasonerOptions& options);

}  // namespace palimpsest
