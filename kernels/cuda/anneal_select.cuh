// SPDX-License-Identifier: Apache-2.0
// Keeps the tokens of a lane with the lowest keys. Keys are distinct, because they contain the
// position. A radix select, 8 bits at a time; no sort.
#pragma once

#include "kernels/cuda/residue.cuh"
#include "kernels/cuda/scored_lanes.cuh"
#include "kernels/random_score.h"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kSelectThreads = kResidueThreads;
inline constexpr uint64_t kNoKey = ~uint64_t{0};  // of a slot without a token of the segment

// The highest score has the lowest key, of equal scores the lower position; the `recent` newest
// come before all of them, with nothing but their position.
__device__ inline uint64_t KeyOf(float score, uint32_t position) {
  const uint32_t bits = __float_as_uint(score + 0.0f);  // -0 counts as 0
  const uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(~ascending) << 32 | position;
}
__device__ inline uint32_t PositionOf(uint64_t key) { return static_cast<uint32_t>(key); }

// Which of 256 counts the `wanted`-th thing falls into (from 1), and how many come before it there.
// For whole warps.
struct BinRank {
  uint32_t bin = 0;
  uint32_t wanted = 0;
};
__device__ inline BinRank FindBin(const uint32_t* counts, uint32_t wanted) {
  const uint32_t lane = threadIdx.x % 32;
  uint32_t own = 0;
  for (uint32_t i = 0; i < 8; ++i) own += counts[8 * lane + i];
  uint32_t sum = own;
  for (uint32_t d = 1; d < 32; d *= 2) {
    const uint32_t other = __shfl_up_sync(~0u, sum, d);
    if (lane >= d) sum += other;
  }
  const uint32_t owner = __ffs(__ballot_sync(~0u, sum >= wanted)) - 1;
  BinRank at{.bin = 8 * lane, .wanted = wanted - (sum - own)};
  while (lane == owner && at.wanted > counts[at.bin]) at.wanted -= counts[at.bin++];
  return {.bin = __shfl_sync(~0u, at.bin, owner), .wanted = __shfl_sync(~0u, at.wanted, owner)};
}

// A lane's scores, whatever they come from: f(slot index, lane of its page, position).
struct Scores {
  const ScoredLane& lane;
  const float* computed = nullptr;  // of the lane, a slot each; null: see the task's selector

  __device__ float operator()(uint32_t slot_index, const PageLane& at, uint32_t position) const {
    if (computed != nullptr) return computed[slot_index];
    switch (lane.task.selector) {
      case Selector::kRandom:
        return static_cast<float>(RandomScore(lane.layer(), lane.kv_head(), position));
      case Selector::kAttentionReceived:
        return at.score(slot_index % kSlotsPerPage);
      default:
        return 0.0f;  // the newest stay, and there are none besides
    }
  }
};

// The keys of a lane's tokens, in shared memory: one of `slots` slots each.
class CachedKeys {
 public:
  __device__ CachedKeys(const Scores& scores, uint64_t* keys)
      : slots_(scores.lane.slots()), keys_(keys) {
    for (uint32_t i = threadIdx.x; i < slots_; i += kSelectThreads) keys_[i] = kNoKey;
    __syncthreads();
    scores.lane.ForEachToken([&](uint32_t i, const PageLane& at, uint32_t position) {
      keys_[i] = KeyOf(scores(i, at, position), position);
    });
    __syncthreads();
  }
  // f(index of the slot, key) for each.
  template <typename F>
  __device__ void ForEach(F&& f) const {
    for (uint32_t i = threadIdx.x; i < slots_; i += kSelectThreads) {
      if (keys_[i] != kNoKey) f(i, keys_[i]);
    }
  }

 private:
  const uint32_t slots_;
  uint64_t* const keys_;
};

// The same, computed anew each time: where shared memory has no room for them.
class ComputedKeys {
 public:
  __device__ explicit ComputedKeys(const Scores& scores) : scores_(scores) {}
  template <typename F>
  __device__ void ForEach(F&& f) const {
    scores_.lane.ForEachToken([&](uint32_t i, const PageLane& at, uint32_t position) {
      f(i, KeyOf(scores_(i, at, position), position));
    });
  }

 private:
  const Scores scores_;
};

struct SelectMemory {
  uint32_t counts[256];
  BinRank found;
  ResidueMemory residue;
};

// The `wanted`-th lowest (from 1) of to_number(key) over all keys: kBits wide, distinct. For a
// whole CTA.
template <int kBits, typename Keys, typename ToNumber>
__device__ uint64_t FindLowest(const Keys& keys, uint32_t wanted, SelectMemory* memory,
                               const ToNumber& to_number) {
  uint64_t found = 0;  // from the top down
  for (int shift = kBits - 8; shift >= 0; shift -= 8) {
    __syncthreads();
    memory->counts[threadIdx.x] = 0;
    __syncthreads();
    keys.ForEach([&](uint32_t, uint64_t key) {
      const uint64_t number = to_number(key);
      // Two shifts, because one by 64 is none.
      if (number >> shift >> 8 == found >> shift >> 8) {
        atomicAdd(&memory->counts[number >> shift & 255], 1);
      }
    });
    __syncthreads();
    if (threadIdx.x < 32) {
      const BinRank at = FindBin(memory->counts, wanted);
      if (threadIdx.x == 0) memory->found = at;
    }
    __syncthreads();
    found |= static_cast<uint64_t>(memory->found.bin) << shift;
    wanted = memory->found.wanted;
  }
  return found;
}

// Clears the live bits of all but the `keep` best. For a whole CTA.
template <typename Keys>
__device__ void KeepBest(const ScoredLane& lane, const Keys& keys, SelectMemory* memory) {
  uint32_t own = 0;
  keys.ForEach([&](uint32_t, uint64_t) { ++own; });
  if (threadIdx.x == 0) memory->counts[0] = 0;
  __syncthreads();
  atomicAdd(&memory->counts[0], own);
  __syncthreads();
  const LaneKeep kept = lane.keep();
  const uint32_t keep = kept.keep;
  const uint32_t tokens = memory->counts[0];
  if (tokens <= keep) return;

  const uint32_t recent =
      lane.task.selector == Selector::kMostRecent ? keep : min(kept.recent, keep);
  uint32_t newest = ~uint32_t{0};  // tokens from there on stay
  if (recent > 0) {
    newest = ~static_cast<uint32_t>(FindLowest<32>(
        keys, recent, memory, [](uint64_t key) { return uint64_t{~PositionOf(key)}; }));
  }
  const auto ranked = [&](uint64_t key) {
    return PositionOf(key) >= newest ? uint64_t{PositionOf(key)} : key;
  };
  uint64_t last = 0;  // the highest that stays
  if (recent == keep) {
    last = 0xffffffffu;
  } else {
    last = FindLowest<64>(keys, keep, memory, ranked);
  }
  const auto for_each_evicted = [&](const auto& f) {
    keys.ForEach([&](uint32_t i, uint64_t key) {
      if (keep == 0 || ranked(key) > last) f(i);
    });
  };
  if (lane.task.residue) {  // before live bits are cleared: keys may be computed from them
    const uint32_t count = tokens - keep;
    if (lane.of.pool.head_dim == 64) {
      LeaveResidue<64>(lane, count, for_each_evicted, &memory->residue);
    } else {
      LeaveResidue<128>(lane, count, for_each_evicted, &memory->residue);
    }
  }
  for_each_evicted([&](uint32_t i) { lane.block(i / kSlotsPerPage).ClearLive(i % kSlotsPerPage); });
}

}  // namespace palimpsest::cuda::anneal
