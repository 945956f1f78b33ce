// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/tile.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/codec.h"
#include "tests/kernels/reference.h"

namespace palimpsest {
namespace {

TEST(DequantiseSlots, EqualsThePlainCodecForEveryCodeAndScale) {
  constexpr int kDim = 64;
  std::mt19937 engine(1);
  for (const Format format : kFormats) {
    const size_t data_bytes = SlotDataBytes(format, kDim);
    const size_t scale_bytes = SlotScaleBytes(format, kDim);
    for (int round = 0; round < 64; ++round) {
      // Any bytes at all: codes run through every value, scales too (restored pages are data).
      std::vector<uint8_t> data(16 * data_bytes), scales(16 * scale_bytes + 1);
      for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 7 + round);
      for (uint8_t& s : scales) s = static_cast<uint8_t>(engine() % 0x7f);
      const auto live = static_cast<uint16_t>(round == 0 ? 0xffff : engine());
      std::vector<float> tile(16 * kDim, -1.0f), slot(kDim);
      const int tokens =
          DequantiseSlots(format, data.data(), scales.data(), live, kDim, tile.data());
      EXPECT_EQ(tokens, std::popcount(live));
      int t = 0;
      for (int s = 0; s < 16; ++s) {
        if ((live >> s & 1) == 0) continue;
        DecodeSlot(format, data.data() + s * data_bytes, scales.data() + s * scale_bytes, kDim,
                   slot.data());
        for (int c = 0; c < kDim; ++c) {
          const float seen = tile[t * kDim + c];
          ASSERT_TRUE(seen == slot[c] || (std::isnan(seen) && std::isnan(slot[c])))
              << Name(format) << " " << seen << " for " << slot[c];
        }
        ++t;
      }
    }
  }
}

TEST(DequantiseSlots, NeverReadsDeadSlots) {
  // Only slot 2 exists in memory; AddressSanitizer watches the rest.
  constexpr int kDim = 32;
  for (const Format format : kFormats) {
    const size_t data_bytes = SlotDataBytes(format, kDim),
                 scale_bytes = SlotScaleBytes(format, kDim);
    std::vector<uint8_t> data(data_bytes, 0x11), scales(std::max<size_t>(1, scale_bytes), 0x38);
    std::vector<float> out(kDim);
    EXPECT_EQ(DequantiseSlots(format, data.data() - 2 * data_bytes, scales.data() - 2 * scale_bytes,
                              1 << 2, kDim, out.data()),
              1);
  }
}

TEST(FoldTile, FoldedTilesMergedInAnyGroupingEqualTheReference) {
  std::mt19937 engine(2);
  std::normal_distribution<float> normal;
  for (const int dim : {16, 48, 64, 128, 256}) {
    std::vector<float> q(dim), keys(7 * 16 * dim), values(keys.size());
    for (auto* x : {&q, &keys, &values}) {
      for (float& value : *x) value = normal(engine);
    }
    const float scale = 3.0f / std::sqrt(static_cast<float>(dim));
    const int tokens[] = {16, 1, 0, 7, 16, 15, 16};
    std::vector<reference::Token> all;
    std::vector<float> buffer(3 * dim), out(dim);
    AttentionState parts[3];
    for (int i = 0; i < 3; ++i) parts[i] = AttentionState::Init(&buffer[i * dim], dim);
    for (int tile = 0; tile < 7; ++tile) {
      const float* k = &keys[tile * 16 * dim];
      const float* v = &values[tile * 16 * dim];
      // Part 1 sees no key at all; merging it must change nothing.
      FoldTile(q.data(), k, v, tokens[tile], dim, scale, &parts[tile < 3 ? 0 : 2]);
      for (int t = 0; t < tokens[tile]; ++t) {
        all.push_back({0, {k + t * dim, k + (t + 1) * dim}, {v + t * dim, v + (t + 1) * dim}});
      }
    }
    AttentionState whole = parts[1];
    whole.Merge(parts[2], dim);
    whole.Merge(parts[0], dim);
    whole.Normalise(dim, out.data());
    const auto exact = reference::Attention({q.begin(), q.end()}, all, scale);
    for (int c = 0; c < dim; ++c) EXPECT_NEAR(out[c], exact[c], 5e-6) << dim;
  }
}

TEST(FoldTile, LogitsFarApartNeitherOverflowNorLoseTheLargest) {
  constexpr int kDim = 64;
  std::vector<float> q(kDim, 0.0f), keys(2 * kDim, 0.0f), values(2 * kDim, 1.0f), out(kDim);
  q[0] = 1.0f;
  for (const float high : {1e4f, 1e30f}) {
    keys[0] = -high;
    keys[kDim] = high;
    std::fill_n(values.begin(), kDim, -5.0f);
    std::vector<float> sums(kDim);
    AttentionState state = AttentionState::Init(sums.data(), kDim);
    FoldTile(q.data(), keys.data(), values.data(), 1, kDim, 1.0f, &state);
    FoldTile(q.data(), keys.data() + kDim, values.data() + kDim, 1, kDim, 1.0f, &state);
    FoldTile(q.data(), keys.data(), values.data(), 1, kDim, 1.0f, &state);
    state.Normalise(kDim, out.data());
    for (const float x : out) EXPECT_NEAR(x, 1.0f, 1e-6f);
  }
}

TEST(AttentionState, WithoutKeysNormalisesToZero) {
  std::vector<float> values(64, 3.0f), out(64, 9.0f);
  AttentionState::Init(values.data(), 64).Normalise(64, out.data());
  for (const float x : out) EXPECT_EQ(x, 0.0f);
}

}  // namespace
}  // namespace palimpsest
