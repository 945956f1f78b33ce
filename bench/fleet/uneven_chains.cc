// SPDX-License-Identifier: Apache-2.0
#include "bench/fleet/uneven_chains.h"

#include <algorithm>

#include "common/policy/lane_budgets.h"
#include "kernels/block_rounds.h"

namespace palimpsest::bench {

UnevenChains::UnevenChains(const UnevenOptions& options)
    : options_(options), chains_(options.batch) {
  const auto lanes = static_cast<uint32_t>(options.shares.size());
  const std::vector<uint32_t> keeps = LaneBudgets(options.shares, options.budget);
  std::vector<uint32_t> blocks(lanes);
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    blocks[lane] = (keeps[lane] + options.window + kGroupTokens - 1) / kGroupTokens;
  }
  round_first_ = RoundsOf(blocks);
  for (uint32_t i = 0; i < options.batch; ++i) {
    Chain& chain = chains_[i];
    const uint32_t generated = options.tokens / options.batch * i + 7 * i % kGroupTokens;
    chain.age = options.prompt + generated / kGroupTokens * kGroupTokens;
    chain.open = generated % kGroupTokens;
    chain.counts.resize(lanes);
    Deal(&chain);
  }
}

uint32_t UnevenChains::BlocksWanted(uint32_t age) const {
  if (age <= options_.prompt) return 0;
  // The longest lane's next block, and the others' before it.
  const auto rounds = static_cast<uint32_t>(round_first_.size() - 1);
  const uint32_t round = std::min((age - options_.prompt) / kGroupTokens, rounds);
  return round_first_[round];
}

void UnevenChains::Deal(Chain* chain) {
  const auto lanes = static_cast<uint32_t>(options_.ranks.size());
  const uint32_t even_pages = options_.prompt / kGroupTokens;
  const uint32_t prompt_pages = std::min(chain->age / kGroupTokens, even_pages);
  const uint32_t pages = prompt_pages + (BlocksWanted(chain->age) + lanes - 1) / lanes;
  CountBlocks(prompt_pages, pages, round_first_, options_.ranks, absl::MakeSpan(chain->counts));
  chain->pages.resize(pages);
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
