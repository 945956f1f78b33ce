// SPDX-License-Identifier: Apache-2.0
// The sums that evicted tokens leave behind, in the device's own memory: also of so many slots that
// a lane's keys are not cached, and looked at in parts.
#include <cmath>
#include <tuple>
#include <vector>

#include "kernels/cpu/codec.h"
#include "tests/kernels/cuda/random_sequence.h"

namespace palimpsest {
namespace {

constexpr Thought kR = Thought::kReasoning;
constexpr uint64_t kPoolBytes = uint64_t{16} << 20;
constexpr uint32_t kOpenGroup = 1;

using Case = std::tuple<int, PageFormat, bool>;  // head_dim, format, slot_scores

class ResidueTest : public GpuTest, public ::testing::WithParamInterface<Case> {
 protected:
  // K and V sums of a lane, and their tokens' count, of what is live in `before` and not in
  // `after`.
  static std::vector<double> Expected(const CacheShape& shape, PageFormat format, int lane,
                                      const std::vector<PageOffset>& pages,
                                      const std::vector<uint8_t>& before,
                                      const std::vector<uint8_t>& after) {
    const PageLayout layout = MakePageLayout(shape, format);
    const auto dim = static_cast<size_t>(shape.head_dim);
    std::vector<double> sums(2 * dim + 1);
    std::vector<float> x(dim);
    for (const PageOffset page : pages) {
      const uint8_t* data = &before[page + lane * layout.lane_bytes];
      for (size_t slot = 0; slot < kSlotsPerPage; ++slot) {
        const size_t mask = page + layout.masks_offset + 2 * lane + slot / 8;
        if (((before[mask] & ~after[mask]) >> slot % 8 & 1) == 0) continue;
        const auto add = [&](Format of, size_t at, size_t scales_at, double* to) {
          DecodeSlot(of, data + at + slot * SlotDataBytes(of, shape.head_dim),
                     data + scales_at + slot * SlotScaleBytes(of, shape.head_dim), shape.head_dim,
                     x.data());
          for (size_t c = 0; c < dim; ++c) to[c] += x[c];
        };
        add(format.k, 0, layout.k_scales_offset, sums.data());
        add(format.v, layout.v_data_offset, layout.v_scales_offset, sums.data() + dim);
        ++sums.back();
      }
    }
    return sums;
  }
};

TEST_P(ResidueTest, IsTheSumOfAllThatWasEvicted) {
  const auto [head_dim, format, slot_scores] = GetParam();
  const CacheShape shape = {.layers = 2,
                            .kv_heads = 1,
                            .head_dim = head_dim,
                            .slot_scores = slot_scores,
                            .residue = true};
  BackendPair pair({.shape = shape,
                    .query_heads = 2,
                    .pool_bytes = kPoolBytes,
                    .open_groups = 2,
                    .rows_max = 16});
  PageSource source(shape, kPoolBytes);
  RandomSequence sequence(&pair, &source, ClassFormats::Uniform(format), kOpenGroup, 130);
  std::vector<std::vector<double>> expected(shape.lanes(), std::vector<double>(2 * head_dim + 1));
  // Few slots, a cache of keys full, and more than one look takes.
  for (const auto& [groups, keep] : {std::pair{5, 50}, {400, 5000}, {300, 3001}, {40, 0}}) {
    sequence.GrowClass(kR, groups);
    const SequenceView view = sequence.View();
    const AnnealOrder order{
        .thought = kR,
        .first_position = 3,
        .end_position = sequence.next_position(),
        .keep = static_cast<uint32_t>(keep),
        .selection = {.selector = Selector::kRandom, .recent = 9, .residue = true}};
    const auto before = BackendPair::Bytes(pair.gpu(), 0, kPoolBytes);
    pair.OnBoth([&](Backend& backend) { return backend.Anneal({&view, 1}, {&order, 1}); });
    const auto after = BackendPair::Bytes(pair.gpu(), 0, kPoolBytes);
    sequence.ExpectEqualPages();
    for (int lane = 0; lane < shape.lanes(); ++lane) {
      const auto more = Expected(shape, format, lane, sequence.pages(kR), before, after);
      for (size_t i = 0; i < more.size(); ++i) expected[lane][i] += more[i];
      const auto sums = DeviceArray<float>::ReadDevice(pair.gpu().pool().open_groups +
                                                           kOpenGroup * OpenGroupBytes(shape) +
                                                           OpenGroupResidueOffset(shape, lane, 0),
                                                       more.size());
      EXPECT_EQ(sums.back(), expected[lane].back()) << "lane " << lane;
      for (size_t i = 0; i + 1 < more.size(); ++i) {
        ASSERT_NEAR(sums[i], expected[lane][i], 1e-6 * (100 + expected[lane].back()))
            << "lane " << lane << " channel " << i << " after " << sums.back() << " tokens";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    HeadDimsAndFormats, ResidueTest,
    ::testing::Combine(::testing::Values(64, 128),
                       ::testing::Values(PageFormat{}, PageFormat{Format::kNvfp4, Format::kTernary},
                                         PageFormat{Format::kFp8, Format::kNvfp4},
                                         PageFormat{Format::kInt4, Format::kInt4}),
                       ::testing::Bool()));

}  // namespace
}  // namespace palimpsest
