// SPDX-License-Identifier: Apache-2.0
// Tiles of 64 rows of a book, or of two side by side, streamed through shared memory past the warps
// of a CTA of which each holds other rows. They need not keep in step: each says when it is done
// with a tile, and the one whose turn it is fetches the next into its room.
//
// With each tile may come numbers, one or two for each of its rows.
#pragma once

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/operand_book.h"

namespace palimpsest::cuda {

inline constexpr uint32_t kTileStages = 4;
inline constexpr uint32_t kTilesAhead =
    2;  // so that fast warps may be two tiles ahead of slow ones

// What a stream copies for its i-th tile.
template <int kBooks, int kNumbers>
struct TileSource {
  const uint8_t* tiles[kBooks] = {};  // the first null: nothing, for nobody will look at it
  const float* numbers[kNumbers > 0 ? kNumbers : 1] = {};
};

template <int kDim, int kBooks, int kNumbers>
class TileStream {
 public:
  using Source = TileSource<kBooks, kNumbers>;

  struct Tile {
    alignas(128) uint8_t rows[kBooks][BookBytes(kTileRows, kDim)];
    float numbers[kNumbers > 0 ? kNumbers : 1][kTileRows];
  };
  struct Stages {
    Tile tiles[kTileStages];
    uint64_t full[kTileStages];
    uint64_t empty[kTileStages];
  };

  // One thread, before the CTA meets. `warps` will read every tile.
  static __device__ void Init(Stages* stages, uint32_t warps) {
    for (uint32_t i = 0; i < kTileStages; ++i) {
      InitBarrier(&stages->full[i]);
      InitBarrier(&stages->empty[i], warps);
    }
    FenceBarriers();
  }

  __device__ TileStream(Stages* stages, uint32_t warps)
      : stages_(stages), warps_(warps), warp_(threadIdx.x / 32), lane_(threadIdx.x % 32) {}

  // Begins a stream of `count` tiles, the i-th being at(i). REQUIRES: what was streamed before has
  // been released by all warps.
  template <typename At>
  __device__ void Begin(uint32_t count, const At& at) {
    begun_ = next_;
    end_ = next_ + count;
    if (warp_ != 0) return;
    for (uint32_t i = 0; i < min(count, kTilesAhead); ++i) Fetch(begun_ + i, at(i));
  }

  // The next tile, valid until Release. Fetches a later one, where that is this warp's turn.
  template <typename At>
  __device__ const Tile& Next(const At& at) {
    if (warp_ == next_ % warps_) {
      const uint32_t ahead = next_ + kTilesAhead;
      if (ahead < end_) Fetch(ahead, at(ahead - begun_));
    }
    const uint32_t stage = next_ % kTileStages;
    WaitBarrier(&stages_->full[stage], next_ / kTileStages & 1);
    ++next_;
    return stages_->tiles[stage];
  }

  // This warp is done with the oldest tile that it has not released.
  __device__ void Release() {
    __syncwarp();
    if (lane_ == 0) ArriveBarrier(&stages_->empty[released_ % kTileStages]);
    ++released_;
  }

 private:
  // Waits until all warps have released what the tile's stage held before.
  __device__ void Fetch(uint32_t tile, const Source& from) {
    const uint32_t stage = tile % kTileStages;
    if (tile >= kTileStages) WaitBarrier(&stages_->empty[stage], (tile / kTileStages - 1) & 1);
    Tile& to = stages_->tiles[stage];
    uint64_t* const full = &stages_->full[stage];
    if (from.tiles[0] == nullptr) {
      if (lane_ < kCopyArrivals) ArriveBarrier(full);
      return;
    }
    AsyncPart parts[kBooks + kNumbers];
#pragma unroll
    for (int i = 0; i < kBooks; ++i) parts[i] = {to.rows[i], from.tiles[i], sizeof(to.rows[i])};
#pragma unroll
    for (int i = 0; i < kNumbers; ++i) {
      parts[kBooks + i] = {reinterpret_cast<uint8_t*>(to.numbers[i]),
                           reinterpret_cast<const uint8_t*>(from.numbers[i]),
                           sizeof(to.numbers[i])};
    }
    CopyAsync(parts, full, lane_);
  }

  Stages* const stages_;
  const uint32_t warps_, warp_, lane_;
  uint32_t next_ = 0;      // the tile that Next returns, counted over all streams
  uint32_t released_ = 0;  // the one that Release is for
  uint32_t begun_ = 0;     // the first of this stream
  uint32_t end_ = 0;
};

}  // namespace palimpsest::cuda
