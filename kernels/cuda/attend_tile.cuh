// SPDX-License-Identifier: Apache-2.0
// Attention of up to 8 queries over the 16 slots of one lane of one page, by one warp, on tensor
// cores: S^T = K Q^T, then O^T += V^T P^T. Transposed, because K and V then fill the 16 rows of
// the tensor core's A operand and the few queries of a decode step its 8 columns: nothing is
// computed for rows that do not exist, and the accumulator is head_dim x 8.
//
// With g = lane / 4 and t = lane % 4 (tensor_core.cuh):
//   K   thread (g, t) de-quantises channels [t D/4, (t + 1) D/4) of slots SlotOfRow(g) and + 8.
//       The order of channels inside the sum over them is free; all formats and Q use this one.
//   S^T the thread gets slots SlotOfRow(g), + 8 for queries 2t, 2t + 1.
//   V   thread (g, t) de-quantises channels [g D/8, (g + 1) D/8) of slots t, t + 4, t + 8, t + 12,
//       which are rows 2t, 2t + 1, 2t + 8, 2t + 9 of P: SlotOfRow is made for that. So every load
//       of a warp covers consecutive bytes of the lane.
//   O^T thread (g, t) holds channels [g D/8, (g + 1) D/8) of queries 2t, 2t + 1.
#pragma once

#include <cstdint>

#include "kernels/cuda/dequantise.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace palimpsest::cuda {

inline constexpr int kTileQueries = 8;

// Which slot row `row` < 8 of S^T stands for.
__device__ __forceinline__ uint32_t SlotOfRow(uint32_t row) { return row / 2 + 4 * (row % 2); }

// Q of one block of queries as operand B: [step][half].
template <int kDim>
struct QueryTile {
  uint32_t b[kDim / 16][2];
};

// Bytes of the data of 16 slots, K or V, and with the scales that lie behind it (layout.h).
template <Format kFormat, int kDim>
inline constexpr uint32_t kTileDataBytes = kSlotsPerPage* SlotDataBytes(kFormat, kDim);
template <Format kFormat, int kDim>
inline constexpr uint32_t kTileBytes = kTileDataBytes<kFormat, kDim> +
                                       kSlotsPerPage* SlotScaleBytes(kFormat, kDim);

// S^T of 16 slots, in units of 2^-FactorExponent. `data`: K of the lane.
template <Format kFormat, int kDim>
__device__ __forceinline__ void TileLogits(const uint8_t* data, const QueryTile<kDim>& q,
                                           uint32_t lane, float (&s)[4]) {
  constexpr int kBits = BitsPerElement(kFormat);
  constexpr int kChannels = kDim / 4;             // of one thread
  constexpr int kWords = kChannels * kBits / 32;  // of one slot
  constexpr int kPairsPerWord = 16 / kBits;
  constexpr int kPairsPerScale = kChannelsPerScale / 2;
  constexpr int kScales = kChannels / kChannelsPerScale;
  const uint32_t g = lane / 4, t = lane % 4;
  uint32_t words[2][kWords];
  uint32_t scale[2][kScales] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint32_t slot = SlotOfRow(g) + 8 * h;
    LoadWords<kWords>(data + slot * (kDim * kBits / 8) + t * (kWords * 4), words[h]);
    if constexpr (HasScales(kFormat)) {
      const uint8_t* from =
          data + kTileDataBytes<kFormat, kDim> + slot * (kDim / kChannelsPerScale) + t * kScales;
      if constexpr (kScales == 2) {
        const uint32_t both = *reinterpret_cast<const uint16_t*>(from);
        const uint32_t pair = ScalePair((both & 0xff) | both >> 8 << 16);
        scale[h][0] = SplatLow(pair);
        scale[h][1] = SplatHigh(pair);
      } else {
        static_assert(kScales == 1);
        scale[h][0] = ScalePair(*from * 0x00010001u);
      }
    }
  }
  const auto pair = [&](int h, int i) {  // the thread's i-th pair of channels
    return DequantisedPair<kFormat>(words[h][i / kPairsPerWord], i % kPairsPerWord,
                                    scale[h][i / kPairsPerScale]);
  };
  float even[4] = {}, odd[4] = {};  // two chains, since a product waits for the one before
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    MultiplyAdd(step % 2 == 0 ? even : odd, pair(0, 2 * step), pair(1, 2 * step),
                pair(0, 2 * step + 1), pair(1, 2 * step + 1), q.b[step][0], q.b[step][1]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) s[i] = even[i] + odd[i];
}

// V of 16 slots as a thread holds it. Two slots' halves lie side by side: a word of even channels
// and one of odd ones, whose pairs are pairs of slots, as the product over slots wants them.
template <Format kFormat, int kDim>
struct ValueTile {
  static constexpr int kChannels = kDim / 8;
  // Of one slot; 16 bits when two threads share a word.
  static constexpr int kWordBits = kChannels * BitsPerElement(kFormat);
  static constexpr int kWords = kWordBits < 32 ? 1 : kWordBits / 32;

  uint32_t even[2][kWords];  // slots t, t + 4 and t + 8, t + 12
  uint32_t odd[2][kWords];
  uint32_t scale[2] = {};  // as stored: a byte a slot

  // `data`: V of the lane.
  __device__ __forceinline__ ValueTile(const uint8_t* data, uint32_t lane) {
    const uint32_t g = lane / 4, t = lane % 4;
    constexpr uint32_t kSlotBytes = SlotDataBytes(kFormat, kDim);
    constexpr uint32_t kSlotScales = kDim / kChannelsPerScale;
    const uint8_t* words = data + t * kSlotBytes + g * kWordBits / 32 * 4;
    const uint8_t* scales =
        data + kTileDataBytes<kFormat, kDim> + t * kSlotScales + g * kChannels / kChannelsPerScale;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      LoadWords<kWords>(words + 8 * i * kSlotBytes, even[i]);
      LoadWords<kWords>(words + (8 * i + 4) * kSlotBytes, odd[i]);
      if constexpr (HasScales(kFormat)) {
        scale[i] = scales[8 * i * kSlotScales] | scales[(8 * i + 4) * kSlotScales] << 16;
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int k = 0; k < kWords; ++k) {
        uint32_t first = even[i][k], second = odd[i][k];
        // Where two threads share a word, the odd one's pairs lie half the halves further up.
        if constexpr (kWordBits < 32) {
          first >>= g % 2 * (kWordBits / 2);
          second >>= g % 2 * (kWordBits / 2);
        }
        even[i][k] = __byte_perm(first, second, 0x5410);
        odd[i][k] = __byte_perm(first, second, 0x7632);
      }
    }
  }
};

// O^T += V^T P^T. `p`: the probabilities as S^T lies (slots of row g, then of row g + 8; queries
// 2t, 2t + 1), times 2^FactorExponent.
template <Format kFormat, int kDim>
__device__ __forceinline__ void TileValues(const ValueTile<kFormat, kDim>& v,
                                           const uint32_t (&p)[2], float (&o)[kDim / 16][4]) {
  constexpr int kPairsPerWord = 16 / BitsPerElement(kFormat);
  const uint32_t p0 = Transpose8x8(p[0]);  // slots t, t + 4 of query g
  const uint32_t p1 = Transpose8x8(p[1]);  // slots t + 8, t + 12
  const uint32_t scale[2] = {ScalePair(v.scale[0]), ScalePair(v.scale[1])};
  const auto pair = [&](const uint32_t(&words)[2][ValueTile<kFormat, kDim>::kWords], int i, int j) {
    return DequantisedPair<kFormat>(words[i][j / kPairsPerWord], j % kPairsPerWord, scale[i]);
  };
#pragma unroll
  for (int j = 0; j < kDim / 16; ++j) {  // channels 2j, 2j + 1 of the thread's
    MultiplyAdd(o[j], pair(v.even, 0, j), pair(v.odd, 0, j), pair(v.even, 1, j), pair(v.odd, 1, j),
                p0, p1);
  }
}

}  // namespace palimpsest::cuda
