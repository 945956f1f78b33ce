// SPDX-License-Identifier: Apache-2.0
// What the engine shows of itself: a copy for other threads, and a hook for metrics.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/base/clock.h"
#include "common/base/thought.h"
#include "services/decode/control_plane.h"
#include "services/decode/engine/request.h"
#include "services/decode/pool/page_pool.h"

namespace palimpsest {

struct ChainSnapshot {
  RequestId request = 0;
  std::string tenant;
  std::string policy;
  uint32_t budget_tokens = 0;
  uint32_t tokens = 0;
  uint32_t prompt_tokens = 0;
  uint32_t live_tokens = 0;
  uint64_t footprint_bytes = 0;
  uint64_t full_bytes = 0;
  std::string timeline;  // its last windows
  Thought label = Thought::kReasoning;
};

struct EngineSnapshot {
  uint64_t steps = 0;
  uint64_t tokens_prefilled = 0;
  uint64_t tokens_decoded = 0;
  double step_seconds = 0;
  uint64_t reregistrations = 0;  // sequences the store had to be told of again
  uint32_t waiting = 0;
  bool draining = false;
  StoreState store = StoreState::kNone;
  PoolUsage pool;
  uint64_t footprint_bytes = 0;  // of running chains
  uint64_t full_bytes = 0;
  uint64_t used_byte_steps = 0;  // pool used + open groups + tables, summed over steps
  uint64_t full_byte_steps = 0;
  std::vector<ChainSnapshot> chains;
};

// Told of events as they happen, on the engine's thread; an implementation updates metrics and
// must not block.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;

  virtual void OnStep(double seconds, uint32_t prefill_tokens, uint32_t decode_tokens) = 0;
  // A kernel family's time in a step, by Name(KernelFamily), and "matmul"; or, of an asynchronous
  // device, "device" alone: all that a step waited for.
  virtual void OnKernel(absl::string_view kernel, double seconds) = 0;
  virtual void OnRefused(const absl::Status& status) = 0;  // on the submitter's thread
  virtual void OnLabel(Thought label) = 0;
  // A plan was applied `lag_seconds` after its report was sent (0 for a local one).
  virtual void OnPlan(const Plan& plan, bool local, double lag_seconds) = 0;
  virtual void OnEvicted(uint32_t tokens_of_each_lane) = 0;
  virtual void OnSnapshot(const EngineSnapshot& snapshot) = 0;
};

}  // namespace palimpsest
