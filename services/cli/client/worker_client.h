// SPDX-License-Identifier: Apache-2.0
// Talks to one decode worker. Calls block, with the event loop running and a deadline. Errors are
// whole sentences for a person: Unavailable (nobody, or not one of ours), FailedPrecondition
// (another kind of process), DeadlineExceeded, Cancelled (a signal).
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/values.h"
#include "services/cli/client/event_loop.h"
#include "services/cli/client/messages.h"

namespace palimpsest::cli {

class WorkerClient {
 public:
  // Connects and asks for the status once, so that a wrong port is noticed here. `loop` outlives
  // the client.
  static absl::StatusOr<std::unique_ptr<WorkerClient>> Connect(EventLoop* loop,
                                                               const Endpoint& endpoint,
                                                               Clock::Duration timeout);
  ~WorkerClient();

  const WorkerStatus& first_status() const;
  absl::StatusOr<WorkerStatus> Status();

  // Submits all at once, one admission a request. Events come while the loop runs, until Cancel
  // or the end of this client. `on_event` must not call back into it.
  absl::StatusOr<std::vector<ChainAdmission>> Generate(absl::Span<const ChainRequest> requests,
                                                       std::function<void(ChainEvent)> on_event);
  // Tells the worker to drop what is not finished of every Generate so far.
  void Cancel();

  // OK until the connection ends.
  absl::Status Alive() const;

 private:
  struct Impl;
  explicit WorkerClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace palimpsest::cli
