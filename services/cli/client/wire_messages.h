// SPDX-License-Identifier: Apache-2.0
// Between decode.capnp and the plain values of messages.h. A worker is not trusted either: lists
// and texts are bounded here before they are walked.
#pragma once

#include "absl/status/statusor.h"
#include "proto/decode.capnp.h"
#include "services/cli/client/messages.h"

namespace palimpsest::cli {

absl::StatusOr<WorkerStatus> ReadWorkerStatus(wire::WorkerStatus::Reader reader);
absl::StatusOr<ChainEvent> ReadChainEvent(wire::TokenEvent::Reader reader);
ChainAdmission ReadAdmission(wire::Admission::Reader reader);
void Write(const ChainRequest& request, wire::Request::Builder builder);

}  // namespace palimpsest::cli
