// SPDX-License-Identifier: Apache-2.0
// Runs the chains of an evaluation on a worker: those of all points in one queue, so that the batch
// is full until the last of them.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/cli/client/event_loop.h"
#include "services/cli/client/worker_client.h"
#include "services/cli/eval/problems.h"
#include "services/cli/eval/record.h"
#include "services/decode/model/tokenizer.h"

namespace palimpsest::cli {

// One chain to be run.
struct EvalJob {
  size_t point = 0;    // index of EvalPlan::points
  size_t problem = 0;  // of EvalPlan::problems
  uint32_t sample = 0;
};

// What to run. Everything it points to outlives the run.
struct EvalPlan {
  const std::vector<GridPoint>& points;
  const std::vector<EvalProblem>& problems;
  std::vector<EvalJob> jobs;    // in this order
  Sampling sampling;            // seed: of the evaluation; each problem and sample has its own
  uint32_t max_new_tokens = 0;  // 0: a quarter beyond the reference chain, or kUnknownNewTokens
  AnswerRule answer;
  size_t in_flight = 0;  // chains sent to the worker at a time
  size_t pictured = 0;   // the problem of whose first samples moments are kept
  // Between looks at the worker, which has news of its chains every 50 ms.
  Clock::Duration interval = std::chrono::milliseconds(60);
  Clock::Time deadline;
};

inline constexpr uint32_t kUnknownNewTokens = 32768;

struct EvalProgress {
  size_t done = 0;  // chains of this run
  size_t jobs = 0;
  size_t point = 0;  // of the chain that ended last
  uint64_t tokens = 0;
  double tokens_per_second = 0;  // over the last seconds
  double seconds_left = 0;       // not a number while it cannot be told
};

struct EvalHandlers {
  // A chain has ended well: stopped, or reached its limit.
  std::function<absl::Status(ChainRecord record)> on_record;
  // A chain was lost to an error of the worker's, which is told.
  std::function<void(const EvalJob& job, const std::string& why)> on_lost;
  // At every interval. An error ends the run with it.
  std::function<absl::Status(const EvalProgress& progress)> on_progress;
};

// The seed of one sample of one problem: equal at every point, so that points are compared on equal
// luck.
uint64_t SeedOf(uint64_t seed, const std::string& problem, uint32_t sample);

// Besides the client's and the handlers' errors: InvalidArgument for a prompt that cannot be
// encoded, FailedPrecondition for a request that the worker refuses for good, DeadlineExceeded.
absl::Status RunEvalChains(EventLoop* loop, const Clock* clock, WorkerClient* worker,
                           const Tokenizer& tokenizer, const EvalPlan& plan,
                           const EvalHandlers& handlers);

}  // namespace palimpsest::cli
