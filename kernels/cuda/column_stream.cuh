// SPDX-License-Identifier: Apache-2.0
// Tiles of 128 rows of a book, streamed through shared memory, past the warps of a CTA of which
// each holds other rows in its registers. They need not keep in step: each says when it is done
// with a tile, and the one whose turn it is fetches the next into its room.
//
// With each tile come 128 numbers, one a row, if they are wanted.
#pragma once

#include <cstdint>

#include "kernels/cuda/book_products.cuh"

namespace palimpsest::cuda {

inline constexpr uint32_t kTileStages = 4;
inline constexpr uint32_t kTilesAhead =
    2;  // so that fast warps may be two tiles ahead of slow ones

template <int kDim>
struct ColumnStages {
  alignas(128) uint8_t tiles[kTileStages][BookBytes(kTileColumns, kDim)];
  float numbers[kTileStages][kTileColumns];
  uint64_t full[kTileStages];
  uint64_t empty[kTileStages];
};

// What a stream copies for its i-th tile.
struct TileSource {
  const uint8_t* tile = nullptr;  // null: nothing, for nobody will look at it
  const float* numbers = nullptr;
};

template <int kDim, bool kWithNumbers>
class ColumnStream {
 public:
  using Stages = ColumnStages<kDim>;

  // One thread, before the CTA meets. `warps` will read every tile.
  static __device__ void Init(Stages* stages, uint32_t warps) {
    for (uint32_t i = 0; i < kTileStages; ++i) {
      InitBarrier(&stages->full[i]);
      InitBarrier(&stages->empty[i], warps);
    }
    FenceBarriers();
  }

  __device__ ColumnStream(Stages* stages, uint32_t warps)
      : stages_(stages), warps_(warps), warp_(threadIdx.x / 32), lane_(threadIdx.x % 32) {}

  // Begins a stream of `count` tiles, the i-th being at(i). REQUIRES: what was streamed before has
  // been released by all warps.
  template <typename At>
  __device__ void Begin(uint32_t count, const At& at) {
    begun_ = next_;
    end_ = next_ + count;
    if (warp_ != 0) return;
    for (uint32_t i = 0; i < min(count, kTilesAhead); ++i) Fetch(begun_ + i, at);
  }

  // Before each Next. Where it is this warp's turn to fetch, calls reuse(stage) when all warps are
  // done with the tile of kTilesAhead before in this stream, if there is one.
  template <typename At, typename Reuse>
  __device__ void Advance(const At& at, const Reuse& reuse) {
    if (warp_ != next_ % warps_) return;
    const uint32_t ahead = next_ + kTilesAhead;
    if (next_ - begun_ >= kTileStages - kTilesAhead) {
      WaitReleased(ahead - kTileStages);
      reuse(ahead - kTileStages - begun_);
    }
    if (ahead < end_) Fetch(ahead, at);
  }
  template <typename At>
  __device__ void Advance(const At& at) {
    Advance(at, [](uint32_t) {});
  }

  // The next tile; valid until Release.
  __device__ const uint8_t* Next() {
    const uint32_t stage = next_ % kTileStages;
    WaitBarrier(&stages_->full[stage], next_ / kTileStages & 1);
    return stages_->tiles[stage];
  }
  __device__ const float* numbers() const { return stages_->numbers[next_ % kTileStages]; }
  __device__ uint32_t stage() const { return next_ % kTileStages; }
  __device__ void Release() {
    __syncwarp();
    if (lane_ == 0) ArriveBarrier(&stages_->empty[next_ % kTileStages]);
    ++next_;
  }

 private:
  // Waits until all warps have released a tile. REQUIRES: no later one of its stage was fetched.
  __device__ void WaitReleased(uint32_t tile) {
    WaitBarrier(&stages_->empty[tile % kTileStages], tile / kTileStages & 1);
  }

  template <typename At>
  __device__ void Fetch(uint32_t tile, const At& at) {
    const TileSource from = at(tile - begun_);
    const uint32_t stage = tile % kTileStages;
    if (from.tile == nullptr) {
      if (lane_ < kCopyArrivals) ArriveBarrier(&stages_->full[stage]);
      return;
    }
    constexpr auto kBytes = static_cast<uint32_t>(BookBytes(kTileColumns, kDim));
    const AsyncPart part = {stages_->tiles[stage], from.tile, kBytes};
    if constexpr (kWithNumbers) {
      const AsyncPart numbers = {reinterpret_cast<uint8_t*>(stages_->numbers[stage]),
                                 reinterpret_cast<const uint8_t*>(from.numbers),
                                 kTileColumns * sizeof(float)};
      CopyAsync<2>({part, numbers}, &stages_->full[stage], lane_);
    } else {
      CopyAsync<1>({part}, &stages_->full[stage], lane_);
    }
  }

  Stages* const stages_;
  const uint32_t warps_, warp_, lane_;
  uint32_t next_ = 0;   // the tile that Next returns, counted over all streams
  uint32_t begun_ = 0;  // the first of this stream
  uint32_t end_ = 0;
};

}  // namespace palimpsest::cuda
