// SPDX-License-Identifier: Apache-2.0
// Chains over a backend with pages: full groups are sealed into bf16 pages, which keeps every token
// exactly as it was appended.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/decode/model/chain.h"

namespace palimpsest {

// A CUDA backend for `sequences` chains of `tokens_max` tokens each.
inline std::unique_ptr<CudaBackend> BackendForChains(const ModelConfig& config, uint32_t sequences,
                                                     uint32_t tokens_max, uint32_t rows_max) {
  const uint64_t pages = uint64_t{sequences} * (tokens_max / kGroupTokens + 1);
  auto backend = NewCudaBackend(
      {.shape = config.cache_shape(),
       .query_heads = config.query_heads,
       .pool_bytes = pages * MakePageLayout(config.cache_shape(), PageFormat{}).page_bytes,
       .open_groups = sequences,
       .rows_max = rows_max},
      {});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return backend.ok() ? *std::move(backend) : nullptr;
}

class PagedChains final : public Chains {
 public:
  PagedChains(Model* model, Backend* backend, uint32_t sequences)
      : Chains(model, backend, sequences),
        page_bytes_(MakePageLayout(model->config().cache_shape(), PageFormat{}).page_bytes),
        pages_(sequences) {}

 protected:
  void CloseGroup(uint32_t sequence) override {
    std::vector<PageOffset>& pages = pages_[sequence];
    pages.push_back(next_page_);
    next_page_ += page_bytes_;
    SequenceView& view = views()[sequence];
    view.pages[Index(Thought::kReasoning)] = pages;
    EXPECT_EQ(backend()->Zero(pages.back(), page_bytes_), absl::OkStatus());
    const SealOrder order = {.sequence = sequence, .thought = Thought::kReasoning};
    EXPECT_EQ(backend()->Seal(views(), {&order, 1}), absl::OkStatus());
  }

 private:
  const uint64_t page_bytes_;
  PageOffset next_page_ = 0;
  std::vector<std::vector<PageOffset>> pages_;  // by sequence
};

}  // namespace palimpsest
