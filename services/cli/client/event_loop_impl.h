// SPDX-License-Identifier: Apache-2.0
// The inside of EventLoop: KJ's loop, and waiting with a deadline. Included in this folder only.
#pragma once

#include <kj/async-io.h>
#include <kj/async-unix.h>
#include <kj/debug.h>

#include <chrono>
#include <utility>

#include "absl/status/statusor.h"
#include "common/rpc/rpc_status.h"
#include "services/cli/client/event_loop.h"

namespace palimpsest::cli {

struct EventLoop::Impl {
  Impl();

  // The value of `promise`; DeadlineExceeded after `timeout`, Cancelled after a signal, otherwise
  // what KJ threw. The promise is dropped, so a call still under way is cancelled.
  template <typename T>
  absl::StatusOr<T> Wait(kj::Promise<T> promise, Clock::Duration timeout) {
    bool late = false;
    auto stop =
        Delay(timeout)
            .then([&late] { late = true; })
            .exclusiveJoin(signalled.addBranch())
            .then([]() -> kj::Promise<T> { return KJ_EXCEPTION(FAILED, "stopped waiting"); });
    kj::Maybe<T> value;
    const absl::Status status =
        CatchKj([&] { value = promise.exclusiveJoin(kj::mv(stop)).wait(io.waitScope); });
    KJ_IF_MAYBE (found, value) {
      return kj::mv(*found);
    }
    if (signal != 0) return absl::CancelledError("interrupted");
    if (late) return absl::DeadlineExceededError("no answer in time");
    return status;
  }

  kj::Promise<void> Delay(Clock::Duration duration) {
    return io.provider->getTimer().afterDelay(
        std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count() * kj::NANOSECONDS);
  }

  kj::AsyncIoContext io;
  int signal = 0;
  kj::ForkedPromise<void> signalled;
};

}  // namespace palimpsest::cli
