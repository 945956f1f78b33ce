// SPDX-License-Identifier: Apache-2.0
#include "services/decode/pool/page_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace palimpsest {
namespace {

constexpr CacheShape kReasoner{.layers = 8, .kv_heads = 2, .head_dim = 64};
constexpr CacheShape kLlama8B{.layers = 32, .kv_heads = 8, .head_dim = 128};
constexpr PageFormat kBf16{Format::kBf16, Format::kBf16};
constexpr PageFormat kNvfp4{Format::kNvfp4, Format::kNvfp4};
constexpr PageFormat kTernary{Format::kTernary, Format::kTernary};

PagePool MakePool(uint64_t frames, uint64_t frame_bytes = 0) {
  if (frame_bytes == 0) frame_bytes = ChooseFrameBytes(kReasoner);
  auto pool = PagePool::Create(
      {.shape = kReasoner, .pool_bytes = frames * frame_bytes, .frame_bytes = frame_bytes});
  EXPECT_TRUE(pool.ok()) << pool.status();
  return *std::move(pool);
}

TEST(PagePoolTest, AFrameWastesAtMostFourPercentInEveryFormatOfTheCommonShapes) {
  for (const CacheShape& shape : {kReasoner, CacheShape{30, 3, 64}, kLlama8B}) {
    const uint64_t frame = ChooseFrameBytes(shape);
    for (const Format format : kFormats) {
      const uint64_t page = MakePageLayout(shape, {format, format}).page_bytes;
      EXPECT_LE(static_cast<double>(frame % page), 0.04 * static_cast<double>(frame))
          << Name(format) << " in frames of " << frame;
    }
  }
}

TEST(PagePoolTest, APoolSmallerThanAFrameIsRefusedAndNamed) {
  const auto pool = PagePool::Create({.shape = kReasoner, .pool_bytes = 1000});
  EXPECT_EQ(pool.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(pool.status().message()), testing::HasSubstr("pool_bytes 1000"));
}

TEST(PagePoolTest, PagesOfAllFormatsNeverOverlapAndComeBackWhole) {
  PagePool pool = MakePool(12);
  std::mt19937 random(7);
  struct Page {
    PageFormat format;
    PageOffset offset;
  };
  std::vector<Page> pages;
  const PageFormat formats[] = {kBf16, kNvfp4, kTernary, {Format::kInt4, Format::kTernary}};
  for (int step = 0; step < 5000; ++step) {
    if (random() % 5 < 3) {
      const PageFormat format = formats[random() % 4];
      const auto page = pool.Allocate(format, /*from_reservation=*/false);
      if (page.ok()) {
        pages.push_back({format, *page});
      } else {
        EXPECT_EQ(page.status().code(), absl::StatusCode::kResourceExhausted);
      }
    } else if (!pages.empty()) {
      std::swap(pages[random() % pages.size()], pages.back());
      pool.Free(pages.back().format, pages.back().offset);
      pages.pop_back();
    }
    if (step % 50 != 0) continue;
    std::map<PageOffset, uint64_t> extents;
    uint64_t bytes = 0;
    for (const Page& page : pages) {
      extents[page.offset] = pool.layout(page.format).page_bytes;
      bytes += pool.layout(page.format).page_bytes;
    }
    uint64_t end = 0;
    for (const auto& [offset, size] : extents) {
      EXPECT_GE(offset, end);
      end = offset + size;
    }
    EXPECT_EQ(extents.size(), pages.size());
    EXPECT_LE(end, pool.capacity_bytes());
    EXPECT_EQ(pool.usage().page_bytes, bytes);
    EXPECT_GE(pool.usage().used_bytes, bytes);
  }
  for (const Page& page : pages) pool.Free(page.format, page.offset);
  EXPECT_EQ(pool.usage().used_bytes, 0u);
  EXPECT_EQ(pool.usage().page_bytes, 0u);
}

TEST(PagePoolTest, APromiseIsKeptWhateverOthersAsk) {
  PagePool pool = MakePool(4);
  const uint32_t per_frame =
      static_cast<uint32_t>(pool.usage().frame_bytes / pool.layout(kBf16).page_bytes);
  ASSERT_TRUE(pool.Reserve(kBf16, 3 * per_frame).ok());
  int others = 0;
  while (pool.Allocate(kTernary, false).ok()) ++others;
  EXPECT_GT(others, 0);
  for (uint32_t i = 0; i < 3 * per_frame; ++i) {
    ASSERT_TRUE(pool.Allocate(kBf16, /*from_reservation=*/true).ok()) << i;
  }
  EXPECT_FALSE(pool.Reserve(kBf16, 1).ok());
}

TEST(PagePoolTest, APromiseThatCannotBeKeptIsNotMade) {
  PagePool pool = MakePool(2);
  const uint32_t per_frame =
      static_cast<uint32_t>(pool.usage().frame_bytes / pool.layout(kBf16).page_bytes);
  EXPECT_TRUE(pool.FitsEmpty(kBf16, 2 * per_frame));
  EXPECT_FALSE(pool.FitsEmpty(kBf16, 2 * per_frame + 1));
  EXPECT_EQ(pool.Reserve(kBf16, 2 * per_frame + 1).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(pool.Reserve(kBf16, 2 * per_frame).ok());
  pool.Unreserve(kBf16, 2 * per_frame);
  EXPECT_TRUE(pool.Allocate(kNvfp4, false).ok());
}

TEST(PagePoolDeathTest, FreeingAPageTwiceAborts) {
  PagePool pool = MakePool(2);
  const PageOffset first = *pool.Allocate(kBf16, false);
  const PageOffset second = *pool.Allocate(kBf16, false);
  pool.Free(kBf16, first);
  EXPECT_DEATH(pool.Free(kBf16, first), "invariant");
  pool.Free(kBf16, second);
}

}  // namespace
}  // namespace palimpsest
