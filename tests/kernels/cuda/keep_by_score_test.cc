// SPDX-License-Identifier: Apache-2.0
// Compression by a score: every lane keeps its best, of equals the earlier.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <tuple>

#include "kernels/cuda/anneal.h"
#include "tests/kernels/cuda/random_sequence.h"

namespace palimpsest {
namespace {

constexpr Thought kE = Thought::kExecution;
constexpr CacheShape kShape = {.layers = 3, .kv_heads = 3, .head_dim = 64};
constexpr uint64_t kPoolBytes = uint64_t{16} << 20;
constexpr PageFormat kFormat = {Format::kNvfp4, Format::kNvfp4};

cuda::DeviceLayouts Layouts() {
  const PageLayout page = MakePageLayout(kShape, kFormat);
  cuda::DeviceLayouts layouts;
  layouts.of[cuda::FormatPair(kFormat)] = {
      .k_scales_offset = static_cast<uint32_t>(page.k_scales_offset),
      .v_data_offset = static_cast<uint32_t>(page.v_data_offset),
      .v_scales_offset = static_cast<uint32_t>(page.v_scales_offset),
      .lane_bytes = static_cast<uint32_t>(page.lane_bytes),
      .positions_offset = page.positions_offset,
      .masks_offset = page.masks_offset};
  return layouts;
}

// What must be left of `pages` (the pool, as bytes).
std::vector<uint8_t> Compressed(std::vector<uint8_t> pool, const std::vector<PageOffset>& pages,
                                const cuda::AnnealTask& task, const std::vector<float>& scores) {
  const PageLayout layout = MakePageLayout(kShape, kFormat);
  for (int lane = 0; lane < kShape.lanes(); ++lane) {
    std::vector<std::tuple<float, uint32_t, size_t>> tokens;  // worst first when sorted
    const auto mask_at = [&](size_t page) {
      return &pool[pages[page] + layout.masks_offset + 2 * lane];
    };
    for (size_t i = 0; i < pages.size() * kSlotsPerPage; ++i) {
      const size_t page = i / kSlotsPerPage, slot = i % kSlotsPerPage;
      uint32_t position = 0;
      std::memcpy(&position,
                  &pool[pages[page] + layout.positions_offset + (lane * kSlotsPerPage + slot) * 4],
                  4);
      const bool live = mask_at(page)[slot / 8] >> slot % 8 & 1;
      if (!live || position < task.first_position || position >= task.end_position) continue;
      tokens.emplace_back(scores[lane * pages.size() * kSlotsPerPage + i], ~position, i);
    }
    std::sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) {
      return std::get<1>(a) < std::get<1>(b);  // the newest first
    });
    const uint32_t recent = std::min(task.recent, task.keep);
    for (size_t i = 0; i < std::min<size_t>(recent, tokens.size()); ++i) {
      std::get<0>(tokens[i]) = HUGE_VALF;
    }
    std::sort(tokens.begin(), tokens.end());
    for (size_t i = 0; i + task.keep < tokens.size(); ++i) {
      const size_t slot = std::get<2>(tokens[i]);
      mask_at(slot / kSlotsPerPage)[slot % kSlotsPerPage / 8] &=
          static_cast<uint8_t>(~(1u << slot % 8));
    }
  }
  return pool;
}

using KeepByScore = GpuTest;

TEST_F(KeepByScore, LeavesTheBestOfEveryLane) {
  BackendPair pair({.shape = kShape,
                    .query_heads = 3,
                    .pool_bytes = kPoolBytes,
                    .open_groups = 1,
                    .rows_max = 16});
  PageSource source(kShape, kPoolBytes);
  RandomSequence sequence(&pair, &source, ClassFormats::Uniform(kFormat), 0, 120);
  sequence.GrowClass(kE, 70);
  sequence.MakeHoles(kE, 13);
  const std::vector<PageOffset>& pages = sequence.pages(kE);
  std::vector<cuda::PageEntry> entries;
  for (const PageOffset page : pages) entries.push_back(page | cuda::FormatPair(kFormat));
  const DeviceArray<cuda::PageEntry> device_entries(entries);

  std::vector<float> scores(kShape.lanes() * pages.size() * kSlotsPerPage);
  std::mt19937 engine(121);
  for (float& score : scores) {  // of both signs, many of them equal, zeros of both signs
    score = static_cast<float>(static_cast<int>(engine() % 41) - 20) *
            (engine() % 2 == 0 ? 1e-30f : 1.0f);
    if (score == 0.0f && engine() % 2 == 0) score = -0.0f;
  }
  const DeviceArray<float> device_scores(scores);
  const auto tokens = static_cast<uint32_t>(pages.size()) * kSlotsPerPage;
  for (const auto& [first, end, keep, recent] : {std::array<uint32_t, 4>{0, tokens, 900, 0},
                                                 {100, 200, 37, 0},
                                                 {64, tokens, 301, 100},
                                                 {0, 50, 50, 9},
                                                 {0, 20, 0, 5},
                                                 {0, tokens, 250, 249},
                                                 {0, tokens, 40, 41},
                                                 {0, tokens, 1, 0}}) {
    const cuda::AnnealTask task{.block_count = static_cast<uint32_t>(pages.size()),
                                .first_position = first,
                                .end_position = end,
                                .keep = keep,
                                .recent = recent};
    const auto before = BackendPair::Bytes(pair.gpu(), 0, kPoolBytes);
    const cuda::AnnealParams params{
        .pool = pair.gpu().pool(), .layouts = Layouts(), .page_entries = device_entries.data()};
    ASSERT_EQ(cuda::LaunchKeepByScore(params, task, device_scores.data(), pair.gpu().stream()),
              cudaSuccess);
    EXPECT_EQ(BackendPair::Bytes(pair.gpu(), 0, kPoolBytes),
              Compressed(before, pages, task, scores))
        << keep << " of [" << first << ", " << end << "), " << recent << " of them the newest";
  }
}

}  // namespace
}  // namespace palimpsest
