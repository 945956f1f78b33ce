// SPDX-License-Identifier: Apache-2.0
// An engine full of chains of mixed ages, as if it had served them for hours: ages are spread
// evenly over a whole generation, so that caches have their steady-state sizes.
//
// The past is pretended (pretend_backend.h): the engine itself takes every chain through it, with
// its admission, policies and page tables, but nothing is computed. Then the device gets the pages
// and the engine runs for good. Thoughts are simulated by shares; everything that is timed is real.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/fleet/pretend_backend.h"
#include "bench/fleet/pretend_model.h"
#include "common/base/clock.h"
#include "common/policy/policy.h"
#include "services/decode/engine/engine.h"

namespace palimpsest::bench {

// The paper's mean precision of 3.6 bit at R4E4T2 (ThinKV, table 1) means a fifth of T; R and E,
// of one format, share the rest. The sparsities are what the thresholds kFleetTheta tell apart.
inline constexpr SimulatedThoughts kPaperThoughts = {.shares = {0.2, 0.3, 0.5},
                                                     .sparsity = {0.9f, 0.1f, 0.5f}};
inline constexpr float kFleetTheta[] = {0.3f, 0.7f};

struct FleetOptions {
  PolicySpec policy;
  uint32_t batch = 1;
  uint32_t tokens = 32768;  // what a chain generates in all: the oldest is nearly there
  uint32_t steps = 512;     // the fleet can take after Start; no chain ends before
  // Instead of mixed ages: all chains have generated so many tokens, give or take a window.
  std::optional<uint32_t> age = std::nullopt;
};

// At most 50 ms old, but for live_bytes, which is from Start.
struct FleetState {
  double live_tokens_mean = 0;   // of a chain, all classes and the open group
  double tokens_mean = 0;        // generated or given, live or not
  uint64_t footprint_bytes = 0;  // of all chains
  uint64_t full_bytes = 0;
  uint64_t pool_used_bytes = 0;  // with the frames' slack
  uint64_t used_byte_steps = 0;  // summed over steps: all bytes held, slack included
  uint64_t full_byte_steps = 0;
  uint64_t live_bytes = 0;  // of keys and values that a step's attention has to read
};

class Fleet {
 public:
  // Gives the device the pages that were pretended.
  using PageWriter = std::function<absl::Status(const PretendBackend&)>;

  // `model` outlives the fleet, and its device is `backend`'s.
  Fleet(Model* model, std::unique_ptr<Backend> backend, PagePool pool, uint32_t batch_max,
        PageWriter writer);

  // How many chains of mixed ages the pool holds, up to batch_max, so that none is ever short of a
  // page: all must be admitted, and what a smaller fleet's chains hold must fit for all. Nothing is
  // computed.
  absl::StatusOr<uint32_t> LargestBatch(const FleetOptions& options);

  // Brings the chains to their ages. InvalidArgument when a chain has no room for the steps,
  // ResourceExhausted when the pool does not hold them; Stop then.
  absl::Status Start(const FleetOptions& options);
  absl::Status Step();
  FleetState State() const;
  // Ends all chains; the pool is empty afterwards, and zeroed where it had been written.
  absl::Status Stop();
  // Chains that run now.
  size_t running() const;
  // How often a chain had to give up tokens for want of pages, of all chains that have ended.
  uint64_t pressure_reliefs() const { return pressure_reliefs_; }

 private:
  std::vector<uint32_t> Ages(const FleetOptions& options) const;
  absl::Status Submit(const FleetOptions& options, uint32_t age);
  absl::Status Pretend(const FleetOptions& options);
  absl::StatusOr<uint32_t> MostAdmitted(FleetOptions options);
  uint64_t LiveBytes(const SlotRecord& record) const;

  const CacheShape shape_;
  const uint32_t batch_max_;
  const std::unique_ptr<Clock> clock_ = NewSteadyClock();
  PretendBackend* pretend_ = nullptr;
  std::unique_ptr<TimedBackend> backend_;
  PretendModel model_;
  std::unique_ptr<Engine> engine_;
  const PageWriter writer_;
  std::vector<RequestId> requests_;
  uint64_t live_bytes_ = 0;
  uint64_t pressure_reliefs_ = 0;
};

}  // namespace palimpsest::bench
