// SPDX-License-Identifier: Apache-2.0
// Keeps a worker busy with many chains: submits them in order, so many at a time, waits where the
// worker asks to, and tells which chain an event belongs to.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "services/cli/client/worker_client.h"

namespace palimpsest::cli {

class Dispatcher {
 public:
  struct Options {
    size_t count = 0;      // chains, in all
    size_t in_flight = 0;  // at once
    // The request of the chain; asked for when it is its turn.
    std::function<absl::StatusOr<ChainRequest>(size_t index)> request;
    // What to call the chain in an error: "problem x under thinkv k=512".
    std::function<std::string(size_t index)> describe;
  };
  struct Submitted {
    size_t index = 0;
    uint64_t request = 0;  // the worker's number
  };
  struct Event {
    size_t index = 0;
    Clock::Time arrived;
    Clock::Time submitted;  // the chain
    ChainEvent event;
  };

  // `clock` and `worker` outlive it.
  Dispatcher(const Clock* clock, WorkerClient* worker, Options options);

  // Submits what fits, and names it. FailedPrecondition for a request the worker refuses for good;
  // the client's errors.
  absl::StatusOr<std::vector<Submitted>> Submit();
  // What has come since the last call, in order. Nothing comes of a chain after its end.
  std::vector<Event> Take();

  size_t finished() const { return finished_; }
  bool done() const { return finished_ == options_.count; }

 private:
  struct Chain {
    size_t index = 0;
    Clock::Time submitted;
  };
  struct Arrival {
    Clock::Time arrived;
    ChainEvent event;
  };
  absl::Status Refused(const Refusal& refusal);

  const Clock* const clock_;
  WorkerClient* const worker_;
  const Options options_;
  Clock::Time retry_at_;
  size_t next_ = 0;  // the first chain that is not submitted
  size_t finished_ = 0;
  std::map<uint64_t, Chain> running_;  // by the worker's number
  // Shared with the client, which may deliver after this is gone.
  std::shared_ptr<std::vector<Arrival>> inbox_ = std::make_shared<std::vector<Arrival>>();
};

}  // namespace palimpsest::cli
