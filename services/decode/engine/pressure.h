// SPDX-License-Identifier: Apache-2.0
// What to do when a group must be sealed and the pool has no page: a pure decision, taken only
// after the chain's own policy has been asked for a plan and that did not free enough.
//
// In this order, so that a live chain is never ended for want of memory while it has anything
// older to give: seal into another class that has dead slots (the wider format first, so that
// precision is kept where possible), else empty the oldest unpinned segments of one class until
// the group fits in its dead slots.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/policy/sequence_state.h"

namespace palimpsest {

struct Relief {
  Thought seal_as{};            // the class that will have room
  std::vector<Anneal> anneals;  // to be carried out first
};

// `dead_slots` is by Index(Thought). Nothing when even an emptied class could
// not hold `tokens` more (the chain owns no page but pinned ones).
std::optional<Relief> PlanRelief(const SequenceState& state, Thought label, uint32_t tokens,
                                 const std::array<uint32_t, kThoughtCount>& dead_slots);

}  // namespace palimpsest
