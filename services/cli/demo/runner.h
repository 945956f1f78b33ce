// SPDX-License-Identifier: Apache-2.0
// Sends problems to a worker under one policy and collects what comes back.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/client/event_loop.h"
#include "services/cli/client/worker_client.h"
#include "services/cli/demo/result.h"
#include "services/decode/model/tokenizer.h"

namespace palimpsest::cli {

struct RunOptions {
  PolicySpec spec;
  bool bounded = false;
  uint32_t batch = 0;           // chains in flight; 0: all
  uint32_t max_new_tokens = 0;  // 0: what the reference chain needs, and a quarter more
  uint64_t seed = 0;
  Clock::Duration interval = std::chrono::milliseconds(250);  // between looks at the worker
  Clock::Time deadline;                                       // of the whole demo
};

// How it stands, for display; valid during the call.
struct RunProgress {
  const RunResult& run;
  const WorkerStatus& worker;
  uint64_t tokens_generated = 0;
  uint64_t tokens_expected = 0;  // by the reference chains; 0: not known
  double tokens_per_second = 0;  // over the last seconds
};
// Called at every interval. An error ends the run with it.
using ProgressHandler = std::function<absl::Status(const RunProgress&)>;

// Submits every problem in order and waits until all chains have ended. Besides the client's
// errors: InvalidArgument for a prompt that cannot be encoded, FailedPrecondition for a request the
// worker refuses for good, DeadlineExceeded.
absl::StatusOr<RunResult> RunChains(EventLoop* loop, const Clock* clock, WorkerClient* worker,
                                    const Tokenizer& tokenizer,
                                    const std::vector<CountdownProblem>& problems,
                                    const RunOptions& options, const ProgressHandler& on_progress);

}  // namespace palimpsest::cli
