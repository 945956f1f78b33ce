// SPDX-License-Identifier: Apache-2.0
// The attention mass of every slot against a softmax in double over the same pages.
#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/codec.h"
#include "tests/kernels/cuda/random_sequence.h"

namespace palimpsest {
namespace {

constexpr CacheShape kShape{.layers = 2, .kv_heads = 2, .head_dim = 128};
constexpr int kQueryHeads = 10;
constexpr int kGroup = kQueryHeads / kShape.kv_heads;
constexpr uint64_t kPoolBytes = 16 << 20;
constexpr uint32_t kRowsMax = 32;

class AttentionMassTest : public GpuTest {
 protected:
  static BackendConfig Config() {
    return {.shape = kShape,
            .query_heads = kQueryHeads,
            .pool_bytes = kPoolBytes,
            .open_groups = 4,
            .rows_max = kRowsMax};
  }
};

// The tile's live tokens: slot and logits of the group's queries.
struct Logits {
  size_t slot = 0;
  std::vector<double> of_query;
};

std::vector<double> Dot(const std::vector<float>& q, int kv_head, const std::vector<float>& key) {
  std::vector<double> logits(kGroup);
  for (int g = 0; g < kGroup; ++g) {
    const float* query = &q[static_cast<size_t>(kv_head * kGroup + g) * kShape.head_dim];
    for (int c = 0; c < kShape.head_dim; ++c) logits[g] += double{query[c]} * key[c];
    logits[g] /= std::sqrt(static_cast<double>(kShape.head_dim));
  }
  return logits;
}

// The key of token `index` of an open group, as it lies on the device.
std::vector<float> OpenKey(BackendPair& pair, uint32_t open_group, int layer, int head,
                           size_t index) {
  const uint8_t* lane = pair.gpu().pool().open_groups + open_group * OpenGroupBytes(kShape) +
                        (layer * kShape.kv_heads + head) * OpenGroupLaneBytes(kShape);
  const auto bits = DeviceArray<uint16_t>::ReadDevice(lane + index * kShape.head_dim * 2,
                                                      static_cast<size_t>(kShape.head_dim));
  std::vector<float> key;
  for (const uint16_t x : bits) key.push_back(Bf16ToFloat(x));
  return key;
}

// Live slots of a sequence's pages in one lane, tile after tile.
std::vector<Logits> PageLogits(BackendPair& pair, const SequenceView& view, int layer, int head,
                               const std::vector<float>& q) {
  std::vector<Logits> logits;
  size_t tile = 0;
  for (const Thought thought : kThoughts) {
    const PageFormat format = view.formats.of(thought);
    const PageLayout layout = MakePageLayout(kShape, format);
    for (const PageOffset page : view.pages[Index(thought)]) {
      const auto bytes = BackendPair::Bytes(pair.cpu(), page, layout.page_bytes);
      const uint8_t* lane = bytes.data() + layout.LaneOffset(layer, head);
      const uint8_t* mask = bytes.data() + layout.MaskOffset(layer, head);
      for (int slot = 0; slot < kSlotsPerPage; ++slot) {
        if ((mask[slot / 8] >> slot % 8 & 1) == 0) continue;
        std::vector<float> key(kShape.head_dim);
        DecodeSlot(format.k, lane + slot * SlotDataBytes(format.k, kShape.head_dim),
                   lane + layout.k_scales_offset + slot * SlotScaleBytes(format.k, kShape.head_dim),
                   kShape.head_dim, key.data());
        logits.push_back({tile * kSlotsPerPage + slot, Dot(q, head, key)});
      }
      ++tile;
    }
  }
  return logits;
}

// Probabilities summed over the group, by slot of `logits`.
std::vector<double> Mass(const std::vector<Logits>& logits) {
  std::vector<double> mass(logits.size());
  for (int g = 0; g < kGroup; ++g) {
    double max = -1e300, sum = 0;
    for (const Logits& l : logits) max = std::max(max, l.of_query[g]);
    for (const Logits& l : logits) sum += std::exp(l.of_query[g] - max);
    for (size_t i = 0; i < mass.size(); ++i) {
      mass[i] += std::exp(logits[i].of_query[g] - max) / sum;
    }
  }
  return mass;
}

TEST_F(AttentionMassTest, EverySlotsMassIsItsProbabilitySummedOverTheGroup) {
  BackendPair pair(Config(), {.attention_mass = true});
  PageSource source(kShape, kPoolBytes);
  RandomSequence sequence(&pair, &source, ClassFormats::R4E4T2(), 1, 7);
  sequence.Grow(60);
  sequence.MakeHoles(Thought::kReasoning, 4);
  sequence.Append(5);

  Bf16Numbers numbers(8);
  const size_t width = static_cast<size_t>(kShape.kv_heads) * kShape.head_dim;
  const std::vector<float> q = numbers.Next(kQueryHeads * kShape.head_dim, 2.0f);
  const SequenceView view = sequence.View();
  const StepRows rows{.sequence = 0, .row = 0, .count = 1};
  pair.OnBoth([&](Backend& backend) { return backend.BeginStep({&view, 1}, {&rows, 1}); });
  const uint32_t tiles = pair.gpu().mass_tiles();
  const DeviceArray<uint16_t> device_q(ToBf16(q)), out(ToBf16(q));
  const DeviceArray<float> mass(std::vector<float>(size_t{tiles} * kShape.kv_heads * 16, -1.0f));
  for (int layer = 0; layer < kShape.layers; ++layer) {
    pair.Append(layer, numbers.Next(width), numbers.Next(width));
    const LayerActivations io{.q = device_q.data(),
                              .out = out.data(),
                              .scale = 1.0f / std::sqrt(static_cast<float>(kShape.head_dim))};
    ASSERT_EQ(pair.gpu().AttendWithMass(layer, io, mass.data()), absl::OkStatus());
    ASSERT_EQ(pair.gpu().Synchronize(), absl::OkStatus());
    const std::vector<float> got = mass.Read();
    for (int head = 0; head < kShape.kv_heads; ++head) {
      std::vector<Logits> logits = PageLogits(pair, view, layer, head, q);
      const size_t open_tile = tiles - kRowsMax;
      for (size_t i = 0; i <= view.open_count; ++i) {
        logits.push_back({open_tile * kSlotsPerPage + i,
                          Dot(q, head, OpenKey(pair, view.open_group, layer, head, i))});
      }
      const std::vector<double> expected = Mass(logits);
      double total = 0;
      for (size_t i = 0; i < logits.size(); ++i) {
        const size_t lane = static_cast<size_t>(head) * tiles * kSlotsPerPage;
        const float of_slot = got[lane + logits[i].slot];
        EXPECT_NEAR(of_slot, expected[i], 0.01 * expected[i] + 1e-6)
            << "layer " << layer << " head " << head << " slot " << logits[i].slot;
        total += of_slot;
      }
      EXPECT_NEAR(total, kGroup, 0.01 * kGroup);
    }
  }
}

TEST_F(AttentionMassTest, ItMustBeAskedForWhenTheBackendIsMade) {
  BackendPair pair(Config());
  EXPECT_EQ(pair.gpu().AttendWithMass(0, {}, nullptr).code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace palimpsest
