// SPDX-License-Identifier: Apache-2.0
// The processes of a demo: a shard and a worker as children, or none when a worker runs already.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/cli/child_process.h"
#include "services/cli/client/worker_client.h"
#include "services/cli/demo/settings.h"

namespace palimpsest::cli {

class Fleet {
 public:
  // Starts what is needed, waits until it listens, and connects. Errors say which process, and what
  // it said last. `loop` outlives the fleet.
  static absl::StatusOr<std::unique_ptr<Fleet>> Start(EventLoop* loop, const Clock* clock,
                                                      const DemoSettings& settings,
                                                      const std::string& model);
  Fleet(const Fleet&) = delete;
  Fleet& operator=(const Fleet&) = delete;

  WorkerClient* worker() { return client_.get(); }
  // What became of the store or the worker if one of them has ended; else "".
  std::string StoreObituary() { return store_ ? store_->Obituary() : ""; }
  std::string WorkerObituary() { return worker_ ? worker_->Obituary() : ""; }

 private:
  Fleet() = default;

  // The client goes first, then the worker, then its store.
  std::unique_ptr<ChildProcess> store_;
  std::unique_ptr<ChildProcess> worker_;
  std::unique_ptr<WorkerClient> client_;
};

}  // namespace palimpsest::cli
