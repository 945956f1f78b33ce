// SPDX-License-Identifier: Apache-2.0
// Which live tokens of a segment an anneal keeps. Policy names one, a kernel carries it out; it
// lives here because neither of them may include the other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace palimpsest {

// Ties go to the earlier position, unless said otherwise. Every lane, which is a (layer, KV head),
// chooses by itself, but for k-means and LongFlow, which choose per layer.
enum class Selector : uint8_t {
  kKMeansMedoids = 0,      // ThinKV section 4.2: real tokens nearest to k-means centroids
  kMostRecent = 1,         // the newest
  kRandom = 2,             // the highest hash of (layer, KV head, position): a control
  kAttentionReceived = 3,  // H2O: most attention summed over all steps so far
  kJointScore = 4,         // R-KV: attention of the newest queries against similarity of keys
  kAnticipated = 5,        // largest change that any query of a codebook would see without it
  kValueAttention = 6,     // LongFlow: attention x L1 norm of V in the present step, one a step
};

// An anneal's way to choose.
struct Selection {
  Selector selector = Selector::kKMeansMedoids;
  uint32_t recent = 0;  // so many of the newest tokens stay whatever their score (at most `keep`)
  // What goes is summed into the lane's residue, which attention reads as one token of the weight
  // of all that went: so the weights of what stays do not grow.
  bool residue = false;
  // Half of what a lane keeps beyond this goes to the newest, too.
  uint32_t recent_beyond = std::numeric_limits<uint32_t>::max();
  // Lanes keep different numbers of tokens, by their shares, where the backend knows such.
  bool by_share = false;
  bool operator==(const Selection&) const = default;
};

// How many of the newest tokens stay whatever their score, in a lane that keeps `keep`.
constexpr uint32_t RecentOf(const Selection& selection, uint32_t keep) {
  const uint32_t beyond = keep - std::min(keep, selection.recent_beyond);
  return std::min(keep, std::max(selection.recent, beyond / 2));
}

// What a slot carries besides K and V, for selectors that judge tokens as they go. One float.
enum class SlotScore : uint8_t {
  kNone = 0,
  kAttentionReceived = 1,  // probability so far, summed over steps and the heads of the KV group
  kValueNorm = 2,          // L1 norm of V
};

constexpr SlotScore SlotScoreOf(Selector selector) {
  if (selector == Selector::kAttentionReceived) return SlotScore::kAttentionReceived;
  return selector == Selector::kValueAttention ? SlotScore::kValueNorm : SlotScore::kNone;
}

// Chooses by the sequence's newest queries, which a backend then keeps.
constexpr bool NeedsQueries(Selector selector) { return selector == Selector::kJointScore; }

// Evicts a token a step, inside attention, until an anneal's count is reached.
constexpr bool IsGradual(Selector selector) { return selector == Selector::kValueAttention; }

}  // namespace palimpsest
