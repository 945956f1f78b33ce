// SPDX-License-Identifier: Apache-2.0
// Asks a running store how it is: the one call of the control plane a command-line tool makes.
#pragma once

#include <chrono>
#include <string>

#include "absl/status/statusor.h"
#include "common/rpc/messages.h"

namespace palimpsest {

// Connects to `endpoint` ("host:port"), asks once, hangs up. Unavailable: nobody answers there.
// DeadlineExceeded: too slow. PermissionDenied, FailedPrecondition: the store's refusal, as text.
// Runs an event loop of its own in the calling thread, which must have none.
absl::StatusOr<StoreStatus> FetchStoreStatus(const std::string& endpoint, const StatusQuery& query,
                                             std::chrono::milliseconds deadline);

}  // namespace palimpsest
