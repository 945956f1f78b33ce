// SPDX-License-Identifier: Apache-2.0
// What the engine is asked and what it answers. Plain values; the server translates them from and
// to the wire.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "common/policy/policy.h"
#include "services/decode/model/sampler.h"

namespace palimpsest {

using RequestId = uint64_t;  // chosen by the engine, unique within a process

struct GenerateRequest {
  std::string tenant = "default";
  std::vector<int32_t> prompt;       // at least one token
  uint32_t max_new_tokens = 0;       // at least 1
  std::vector<int32_t> stop_tokens;  // ends the text; the stop token is part of it
  SamplingParams sampling;
  PolicySpec policy;
};

enum class FinishReason : uint8_t { kStop, kLength, kCancelled, kError };

// What one chain cost. Bytes are all bytes of the sequence: pages with their holes, scales,
// positions and masks, the open group, block tables.
struct RequestStats {
  uint32_t prompt_tokens = 0;
  uint32_t new_tokens = 0;
  uint64_t footprint_byte_steps = 0;  // footprint summed over its steps
  uint64_t full_byte_steps = 0;       // the same for the full bf16 cache
  uint64_t footprint_bytes_peak = 0;
  uint64_t full_bytes_end = 0;
  uint64_t live_token_steps = 0;  // live tokens of a lane, summed over its steps
  uint32_t live_tokens_peak = 0;
  uint32_t steps = 0;
  uint32_t plans_applied = 0;
  uint32_t plans_local = 0;         // of them, made by the worker itself
  double plan_lag_seconds_sum = 0;  // report sent -> plan applied, over plans from the store
  double plan_lag_seconds_max = 0;
  uint32_t plan_lag_tokens_max = 0;  // tokens generated between report and application
  uint32_t pressure_reliefs = 0;     // times the pool was full and something had to go
  uint64_t plan_hash = 0;            // of every plan applied, in order: equal runs, equal hashes
  std::string timeline;              // one letter a window: R, E or T
};

// Small, for there is one of each chain at every step: as a rule of one token, without stats.
struct GenerateEvent {
  RequestId request = 0;
  absl::InlinedVector<int32_t, 4> tokens;  // generated since the event before
  std::optional<FinishReason> finished;
  absl::Status error;                 // with kError
  std::optional<RequestStats> stats;  // with `finished`
};

// Called on the engine's thread; must not block.
using EventSink = std::function<void(GenerateEvent)>;

// The answer to a submission: an id, or a typed refusal (InvalidArgument for what can never run,
// ResourceExhausted with a hint when to come back, Unavailable while draining).
struct Admission {
  absl::Status status;
  RequestId request = 0;
  uint32_t retry_after_ms = 0;
};

}  // namespace palimpsest
