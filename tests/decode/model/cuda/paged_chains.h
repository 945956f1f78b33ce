// SPDX-License-Identifier: Apache-2.0
// Chains over a backend with pages: full groups are sealed into bf16 pages, which keeps every token
// exactly as it was appended.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/decode/model/chain.h"

namespace palimpsest {

// The model's cache, with room for what slots carry.
inline CacheShape ShapeForChains(const ModelConfig& config, SlotScore carried) {
  CacheShape shape = config.cache_shape();
  shape.slot_scores = carried != SlotScore::kNone;
  return shape;
}

// For `sequences` chains of `tokens_max` tokens each.
inline BackendConfig ConfigForChains(const ModelConfig& config, uint32_t sequences,
                                     uint32_t tokens_max, uint32_t rows_max,
                                     SlotScore carried = SlotScore::kNone) {
  const CacheShape shape = ShapeForChains(config, carried);
  const uint64_t pages = uint64_t{sequences} * (tokens_max / kGroupTokens + 1);
  return {.shape = shape,
          .query_heads = config.query_heads,
          .pool_bytes = pages * MakePageLayout(shape, PageFormat{}).page_bytes,
          .open_groups = sequences,
          .rows_max = rows_max};
}

inline std::unique_ptr<CudaBackend> BackendForChains(const BackendConfig& config) {
  auto backend = NewCudaBackend(config, {});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return backend.ok() ? *std::move(backend) : nullptr;
}

class PagedChains final : public Chains {
 public:
  PagedChains(Model* model, Backend* backend, uint32_t sequences,
              SlotScore carried = SlotScore::kNone)
      : Chains(model, backend, sequences),
        layout_(MakePageLayout(ShapeForChains(model->config(), carried), PageFormat{})),
        pages_(sequences) {
    for (SequenceView& view : views()) view.slot_score = carried;
  }

  // In the steps to come one sealed token at `position` or later is evicted in each layer.
  void EvictFrom(uint32_t position) {
    for (SequenceView& view : views()) view.evict_from = position;
  }

  // What one lane's live sealed tokens carry, by position. REQUIRES: scores.
  std::map<uint32_t, float> Scores(uint32_t sequence, int layer, int kv_head) {
    std::map<uint32_t, float> scores;
    for (const PageOffset page : pages_[sequence]) {
      std::vector<uint8_t> bytes(layout_.page_bytes);
      EXPECT_EQ(backend()->Read(page, absl::MakeSpan(bytes)), absl::OkStatus());
      EXPECT_EQ(backend()->Synchronize(), absl::OkStatus());
      const auto at = [&]<typename T>(size_t offset, T* value) {
        std::memcpy(value, &bytes[offset], sizeof(T));
      };
      uint16_t live = 0;
      at(layout_.MaskOffset(layer, kv_head), &live);
      for (size_t slot = 0; slot < kSlotsPerPage; ++slot) {
        uint32_t position = 0;
        at(layout_.PositionsOffset(layer, kv_head) + 4 * slot, &position);
        if (live >> slot & 1)
          at(layout_.ScoresOffset(layer, kv_head) + 4 * slot, &scores[position]);
      }
    }
    return scores;
  }

 protected:
  void CloseGroup(uint32_t sequence) override {
    std::vector<PageOffset>& pages = pages_[sequence];
    pages.push_back(next_page_);
    next_page_ += layout_.page_bytes;
    SequenceView& view = views()[sequence];
    view.pages[Index(Thought::kReasoning)] = pages;
    EXPECT_EQ(backend()->Zero(pages.back(), layout_.page_bytes), absl::OkStatus());
    const SealOrder order = {.sequence = sequence, .thought = Thought::kReasoning};
    EXPECT_EQ(backend()->Seal(views(), {&order, 1}), absl::OkStatus());
  }

 private:
  const PageLayout layout_;
  PageOffset next_page_ = 0;
  std::vector<std::vector<PageOffset>> pages_;  // by sequence
};

}  // namespace palimpsest
