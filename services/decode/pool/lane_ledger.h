// SPDX-License-Identifier: Apache-2.0
// The host side of one uneven sequence (kernels/uneven_lanes.h): how many tokens each lane may come
// to hold, which blocks that makes its own, and how many it holds now.
//
// Each lane keeps its part of the budget (LaneBudgets) at an anneal and grows by a window until the
// next one. So it never wants more blocks than hold both, and these are dealt out beforehand, once:
// nothing is ever moved. A lane that would want more has missed an anneal, and gets one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "common/policy/policy.h"
#include "kernels/uneven_lanes.h"

namespace palimpsest {

// LaneSharing::lag_tokens where a store plans that nobody waits for. What comes before the next
// group is sealed is in time without it; a chain whose plan is later still makes one itself.
inline constexpr uint32_t kPlanLagTokens = 16;

// How the lanes of a chain share its budget.
struct LaneSharing {
  // [lanes], as QueryCodebook::lane_shares. Outlives who is given it. Empty: all get the same, and
  // the sequence is an even one.
  absl::Span<const float> shares = {};
  uint32_t budget_tokens = 0;  // of a lane on average
  uint32_t window_tokens = 0;
  uint32_t lag_tokens = 0;  // anneals may come so many tokens late
  uint32_t tokens_max = std::numeric_limits<uint32_t>::max();  // all that it can ever hold
};

// The same, or of even lanes where the largest would outgrow kLaneBlocksMax: a long prompt, or a
// large budget and a large share.
LaneSharing WithinLimits(const LaneSharing& sharing, uint32_t prompt_tokens);

// How a chain of this policy shares its budget: `sharing`, with the spec's budget and windows and
// within limits; of even lanes where the policy does not go by shares.
LaneSharing SharingUnder(const PolicySpec& spec, const Policy& policy, LaneSharing sharing,
                         uint32_t prompt_tokens);

class LaneLedger {
 public:
  // REQUIRES: shares.
  LaneLedger(const LaneSharing& sharing, uint32_t prompt_tokens);

  // For SequenceView. Borrowed from the ledger, as it is now.
  UnevenLanes view() const {
    return {.even_pages = std::min(even_pages_, pages_),
            .round_first = round_first_,
            .block_counts = block_counts_};
  }

  // Pages in which all lanes have all the blocks that they may have.
  uint32_t pages_max() const;
  // Blocks that the largest lane may have.
  uint32_t blocks_max() const {
    return even_pages_ + static_cast<uint32_t>(round_first_.size() - 1);
  }
  // Pages that give every lane room for `tokens` more; fewer than it has where there is room.
  // Nothing where some lane may not have as many blocks.
  std::optional<uint32_t> PagesFor(uint32_t tokens) const;
  void SetPages(uint32_t pages);

  // Dead slots of the lane that has the fewest.
  uint32_t DeadSlots() const;
  // Every lane got so many tokens; the prompt's come first.
  void Seal(uint32_t prompt_tokens, uint32_t other_tokens);
  // What each lane keeps if it is `mean` tokens on average. Valid until asked for another mean.
  absl::Span<const uint32_t> Keeps(uint32_t mean);
  // Does any lane have more than Keeps(mean), the prompt's tokens apart?
  bool Lowers(uint32_t mean);
  // Lowers every lane to Keeps(mean).
  void Anneal(uint32_t mean);
  // Tokens of a lane on average, the prompt's apart; rounded up.
  uint32_t mean_live() const;

  // What the ledger takes: tables of its rounds and of its lanes.
  uint64_t bytes() const;

 private:
  uint32_t lanes() const { return static_cast<uint32_t>(ranks_.size()); }

  const absl::Span<const float> shares_;
  const uint32_t even_pages_;  // once it has as many
  uint32_t pages_ = 0;
  const std::vector<uint32_t> ranks_;
  std::vector<uint32_t> round_first_;
  std::vector<uint32_t> block_counts_;
  uint32_t prompt_live_ = 0;    // in every lane
  std::vector<uint32_t> live_;  // the others, by lane
  uint32_t keeps_mean_ = 0;
  std::vector<uint32_t> keeps_;
};

}  // namespace palimpsest
