// SPDX-License-Identifier: Apache-2.0
// Chains of mixed ages whose lanes share a budget unequally, as far as a step's tables see them:
// how many blocks each lane has. Every chain adds a token a step; where one ends another begins,
// with a prompt of its own that it reads 16 rows a step.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"

namespace palimpsest::bench {

struct UnevenOptions {
  std::vector<float> shares;    // [lanes]
  std::vector<uint32_t> ranks;  // [lanes]: RankLanes of them
  uint32_t budget = 1024;       // tokens of a lane on average
  uint32_t window = 128;
  uint32_t prompt = 512;
  uint32_t tokens = 32768;  // of a chain
  uint32_t batch = 64;
  uint64_t page_bytes = 0;
};

class UnevenChains {
 public:
  explicit UnevenChains(const UnevenOptions& options);
  // Not movable: views point into it.
  UnevenChains(const UnevenChains&) = delete;
  UnevenChains& operator=(const UnevenChains&) = delete;

  // The next step of all chains.
  void Next();
  const std::vector<SequenceView>& views() const { return views_; }
  const std::vector<StepRows>& rows() const { return rows_; }

 private:
  struct Chain {
    uint32_t age = 0;     // tokens sealed, those of the prompt too
    uint32_t open = 0;    // in the open group
    uint32_t blocks = 0;  // dealt, behind the prompt's pages
    std::vector<PageOffset> pages;
    std::vector<uint32_t> counts;  // [lanes]
  };
  // Blocks of all lanes for what a chain of this age may hold.
  uint32_t BlocksWanted(uint32_t age) const;
  void Deal(Chain* chain);
  void View(uint32_t index, uint32_t row, uint32_t count);

  const UnevenOptions options_;
  std::vector<uint32_t> round_first_;  // of all chains
  std::vector<Chain> chains_;
  std::vector<SequenceView> views_;
  std::vector<StepRows> rows_;
};

}  // namespace palimpsest::bench
