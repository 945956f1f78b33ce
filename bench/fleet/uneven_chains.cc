// SPDX-License-Identifier: Apache-2.0
#include "bench/fleet/uneven_chains.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "common/policy/lane_budgets.h"

namespace palimpsest::bench {

std::vector<float> RandomShares(uint32_t count) {
  std::mt19937 random(1);
  // Few are large: the density falls from 1/4 to 3.
  std::exponential_distribution<float> excess(1.0f / 0.9f);
  std::vector<float> shares(count);
  for (float& share : shares) share = std::min(0.25f + excess(random), 3.0f);
  const float mean = std::accumulate(shares.begin(), shares.end(), 0.0f) / count;
  for (float& share : shares) share /= mean;
  return shares;
}

UnevenChains::UnevenChains(const UnevenOptions& options)
    : options_(options), lane_of_(options.shares.size()), chains_(options.batch) {
  const auto lanes = static_cast<uint32_t>(options.shares.size());
  const std::vector<uint32_t> keeps = LaneBudgets(options.shares, options.budget);
  blocks_max_.resize(lanes);
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    blocks_max_[options.ranks[lane]] =
        (keeps[lane] + options.window + kGroupTokens - 1) / kGroupTokens;
    lane_of_[options.ranks[lane]] = lane;
  }
  for (uint32_t round = 0; round < blocks_max_[0]; ++round) {
    const auto size = std::count_if(blocks_max_.begin(), blocks_max_.end(),
                                    [&](uint32_t most) { return most > round; });
    round_first_.push_back(round_first_.back() + static_cast<uint32_t>(size));
  }
  for (uint32_t i = 0; i < options.batch; ++i) {
    Chain& chain = chains_[i];
    const uint32_t generated = options.tokens / options.batch * i + 7 * i % kGroupTokens;
    chain.age = options.prompt + generated / kGroupTokens * kGroupTokens;
    chain.open = generated % kGroupTokens;
    Deal(&chain);
  }
}

uint32_t UnevenChains::BlocksWanted(uint32_t age) const {
  if (age <= options_.prompt) return 0;
  // The longest lane's next block, and the others' before it.
  const uint32_t round = std::min((age - options_.prompt) / kGroupTokens, blocks_max_[0]);
  return round_first_[round];
}

void UnevenChains::Deal(Chain* chain) {
  const auto lanes = static_cast<uint32_t>(lane_of_.size());
  const uint32_t even_pages = options_.prompt / kGroupTokens;
  const uint32_t prompt_pages = std::min(chain->age / kGroupTokens, even_pages);
  chain->counts.assign(lanes, prompt_pages);
  const uint32_t wanted = BlocksWanted(chain->age);
  const uint32_t pages = (wanted + lanes - 1) / lanes;
  for (uint32_t rank = 0; rank < lanes; ++rank) {
    uint32_t& count = chain->counts[lane_of_[rank]];
    for (size_t round = 0; round + 1 < round_first_.size(); ++round) {
      const uint32_t number = round_first_[round] + rank;
      if (number < std::min(round_first_[round + 1], pages * lanes)) ++count;
    }
  }
  chain->pages.resize(prompt_pages + pages);
  for (size_t i = 0; i < chain->pages.size(); ++i) chain->pages[i] = i * options_.page_bytes;
}

void UnevenChains::View(uint32_t index, uint32_t row, uint32_t count) {
  const Chain& chain = chains_[index];
  SequenceView view;
  view.pages[Index(Thought::kReasoning)] = chain.pages;
  view.formats = ClassFormats::Uniform({Format::kInt4, Format::kInt4});
  view.open_group = index;
  view.open_count = chain.open;
  view.open_position = chain.age;
  view.uneven = {
      .even_pages = std::min(chain.age, options_.prompt) / static_cast<uint32_t>(kGroupTokens),
      .round_first = round_first_,
      .block_counts = chain.counts};
  views_.push_back(view);
  rows_.push_back({.sequence = index, .row = row, .count = count});
}

void UnevenChains::Next() {
  views_.clear();
  rows_.clear();
  uint32_t row = 0;
  for (uint32_t i = 0; i < chains_.size(); ++i) {
    Chain& chain = chains_[i];
    if (chain.open == kGroupTokens) {
      chain.open = 0;
      chain.age += kGroupTokens;
      if (chain.age >= options_.prompt + options_.tokens) chain.age = 0;
      Deal(&chain);
    }
    const uint32_t count = chain.age < options_.prompt ? kGroupTokens : 1;
    View(i, row, count);
    chain.open += count;
    row += count;
  }
}

}  // namespace palimpsest::bench
