// SPDX-License-Identifier: Apache-2.0
// Asks one store shard for its status. Errors as in worker_client.h, and PermissionDenied or
// FailedPrecondition for a refusal.
#pragma once

#include "absl/status/statusor.h"
#include "common/base/values.h"
#include "common/rpc/messages.h"
#include "services/cli/client/event_loop.h"

namespace palimpsest::cli {

absl::StatusOr<StoreStatus> AskStore(EventLoop* loop, const Endpoint& endpoint,
                                     const StatusQuery& query, Clock::Duration timeout);

}  // namespace palimpsest::cli
