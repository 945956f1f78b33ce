// SPDX-License-Identifier: Apache-2.0
// Tokens in order of position without sorting: a bitmap of a window of positions in shared memory,
// with a count before each word. A position's rank is two look-ups. A lane whose positions span
// more than a window is looked at once for every window that holds any.
#pragma once

#include <cstdint>

namespace palimpsest::cuda {

// Begin and Count are for the whole CTA, and wait for it.
template <int kThreads>
class PositionRanks {
 public:
  static constexpr uint32_t kWords = 1024;
  static constexpr uint32_t kWindow = kWords * 32;
  static constexpr uint32_t kNone = ~uint32_t{0};

  // Aligned, so that no load takes in a neighbour, which racecheck would find.
  struct Storage {
    alignas(16) uint32_t bits[kWords];
    alignas(16) uint32_t before[kWords];
    alignas(16) uint32_t warp_counts[kThreads / 32];
    alignas(16) uint32_t next;
  };

  __device__ explicit PositionRanks(Storage* storage) : s_(storage) {}

  // Begins the window of positions [first, first + kWindow).
  __device__ void Begin(uint32_t first) {
    first_ = first;
    __syncthreads();
    for (uint32_t w = threadIdx.x; w < kWords; w += kThreads) s_->bits[w] = 0;
    if (threadIdx.x == 0) s_->next = kNone;
    __syncthreads();
  }
  __device__ bool Covers(uint32_t position) const { return position - first_ < kWindow; }
  // Each position once. Those below the window are passed over.
  __device__ void Add(uint32_t position) {
    const uint32_t at = position - first_;
    if (at < kWindow) {
      atomicOr(&s_->bits[at / 32], 1u << (at % 32));
    } else if (position > first_) {
      atomicMin(&s_->next, position);
    }
  }
  // After the last Add: how many positions the window holds.
  __device__ uint32_t Count() {
    constexpr uint32_t kEach = kWords / kThreads;
    static_assert(kEach * kThreads == kWords);
    __syncthreads();
    const uint32_t first_word = threadIdx.x * kEach;
    uint32_t own = 0;
    for (uint32_t w = first_word; w < first_word + kEach; ++w) own += __popc(s_->bits[w]);
    uint32_t sum = own;  // of this thread and those before it in the warp
    for (uint32_t d = 1; d < 32; d *= 2) {
      const uint32_t other = __shfl_up_sync(~0u, sum, d);
      if (threadIdx.x % 32 >= d) sum += other;
    }
    if (threadIdx.x % 32 == 31) s_->warp_counts[threadIdx.x / 32] = sum;
    __syncthreads();
    uint32_t before = sum - own, total = 0;
    for (uint32_t w = 0; w < kThreads / 32; ++w) {
      if (w < threadIdx.x / 32) before += s_->warp_counts[w];
      total += s_->warp_counts[w];
    }
    for (uint32_t w = first_word; w < first_word + kEach; ++w) {
      s_->before[w] = before;
      before += __popc(s_->bits[w]);
    }
    __syncthreads();
    return total;
  }
  // After Count: how many positions of the window are lower. REQUIRES: Covers(position).
  __device__ uint32_t Rank(uint32_t position) const {
    const uint32_t at = position - first_;
    return s_->before[at / 32] + __popc(s_->bits[at / 32] & ((1u << (at % 32)) - 1));
  }
  // The lowest position added that lies above the window, kNone if none does: where to go on.
  __device__ uint32_t next() const { return s_->next; }
  __device__ uint32_t bits(uint32_t word) const { return s_->bits[word]; }

 private:
  Storage* const s_;
  uint32_t first_ = 0;
};

}  // namespace palimpsest::cuda
