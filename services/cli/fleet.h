// SPDX-License-Identifier: Apache-2.0
// The processes that a verb needs: a shard and a worker as children, or none when a worker runs
// already.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/cli/child_process.h"
#include "services/cli/client/worker_client.h"
#include "services/decode/model/key_rotation.h"

namespace palimpsest::cli {

struct FleetOptions {
  // Which a verb's user chooses.
  std::string worker = {};  // HOST:PORT of a running one; empty: start one
  bool store = true;        // with a shard
  bool lockstep = false;
  uint32_t threads = 0;
  uint64_t pool_bytes = 0;
  std::string calibration = {};  // empty: the model's
  KeyRotation rotate_keys = KeyRotation::kAuto;
  // Which the verb adds, for a worker that is started.
  std::string model = {};  // folder
  std::string name = {};
  std::vector<std::string> more = {};  // further arguments
};

// LaneSharing::lag_tokens of the chains of a worker with these options.
uint32_t PlanLagOf(const FleetOptions& options);

class Fleet {
 public:
  // Starts what is needed, waits until it listens, and connects. Errors say which process, and what
  // it said last. `loop` outlives the fleet.
  static absl::StatusOr<std::unique_ptr<Fleet>> Start(EventLoop* loop, const Clock* clock,
                                                      const FleetOptions& options);
  Fleet(const Fleet&) = delete;
  Fleet& operator=(const Fleet&) = delete;

  WorkerClient* worker() { return client_.get(); }
  // What became of the store if it has ended; else "".
  std::string StoreObituary() { return store_ ? store_->Obituary() : ""; }
  // Unavailable when the worker has ended.
  absl::Status CheckWorker() {
    return WorkerObituary().empty() ? absl::OkStatus()
                                    : absl::UnavailableError("the connection is lost");
  }
  // `status`, or, where the worker has died, what became of it: that says more than a broken
  // connection does. Waits a moment, since the connection breaks before the process can be reaped.
  absl::Status Explain(EventLoop* loop, const absl::Status& status);

 private:
  Fleet() = default;
  std::string WorkerObituary() { return worker_ ? worker_->Obituary() : ""; }

  // The client goes first, then the worker, then its store.
  std::unique_ptr<ChildProcess> store_;
  std::unique_ptr<ChildProcess> worker_;
  std::unique_ptr<WorkerClient> client_;
};

}  // namespace palimpsest::cli
