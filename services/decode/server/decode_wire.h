// SPDX-License-Identifier: Apache-2.0
// Between proto/decode.capnp and the engine's plain values. Reading checks shape: every list
// against its bound before it is walked, every text's length, every enumerant.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "proto/decode.capnp.h"
#include "services/decode/engine/request.h"
#include "services/decode/engine/snapshot.h"
#include "services/decode/model/model_config.h"
#include "services/decode/policy_defaults.h"

namespace palimpsest {

// What a worker says of itself beside the engine's snapshot; fixed at start.
struct WorkerIdentity {
  std::string name;
  std::string version;
  std::string store_endpoint;  // empty: none
  bool lockstep = false;
  std::string model_path;
  bool synthetic = false;
  ModelConfig model;
  PolicyDefaults policies;
  bool keys_rotated = false;
};

// What a request leaves out is the worker's or its model's: stop tokens, fields of the policy.
absl::StatusOr<GenerateRequest> ReadRequest(wire::Request::Reader reader,
                                            const WorkerIdentity& worker);

void Write(const Admission& admission, wire::Admission::Builder builder);
void Write(const GenerateEvent& event, wire::TokenEvent::Builder builder);
void Write(const RequestStats& stats, wire::RequestStats::Builder builder);
void Write(const WorkerIdentity& identity, double uptime_seconds, const EngineSnapshot& snapshot,
           wire::WorkerStatus::Builder builder);

}  // namespace palimpsest
