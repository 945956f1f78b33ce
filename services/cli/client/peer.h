// SPDX-License-Identifier: Apache-2.0
// A connection to a process of ours, and what to tell a person when there is none. This folder
// only.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/values.h"
#include "common/rpc/rpc_connection.h"
#include "services/cli/client/event_loop_impl.h"

namespace palimpsest::cli {

// Which kind of process is expected there.
struct PeerRole {
  absl::string_view noun;     // "worker"
  absl::string_view program;  // "palimpsest-decode"
  absl::string_view flag;     // "--worker"
  absl::string_view other;    // what it may be instead, with its flag
};

inline constexpr PeerRole kWorkerRole = {"worker", "palimpsest-decode", "--worker",
                                         "a store; give that as --store"};
inline constexpr PeerRole kStoreRole = {"store", "palimpsest-kvstore", "--store",
                                        "a worker; give that as --worker"};

absl::StatusOr<std::unique_ptr<RpcConnection>> ConnectPeer(EventLoop* loop, const PeerRole& role,
                                                           const Endpoint& endpoint,
                                                           Clock::Duration timeout);

// One line about a first call that failed: not our protocol, not that role, silent, gone.
absl::Status ExplainFirstCall(const absl::Status& status, const PeerRole& role,
                              const Endpoint& endpoint, Clock::Duration timeout);
// The same for a peer that had answered before.
absl::Status ExplainLaterCall(const absl::Status& status, const PeerRole& role,
                              const Endpoint& endpoint, Clock::Duration timeout);

}  // namespace palimpsest::cli
