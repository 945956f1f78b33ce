// SPDX-License-Identifier: Apache-2.0
#include "services/decode/pool/lane_ledger.h"

#include <algorithm>
#include <numeric>

#include "common/base/check.h"
#include "common/policy/lane_budgets.h"
#include "kernels/block_rounds.h"
#include "kernels/layout.h"

namespace palimpsest {
namespace {

uint32_t BlocksOf(uint64_t tokens) {
  return static_cast<uint32_t>((tokens + kSlotsPerPage - 1) / kSlotsPerPage);
}

}  // namespace

LaneSharing WithinLimits(const LaneSharing& sharing, uint32_t prompt_tokens) {
  if (sharing.shares.empty()) return sharing;
  return LaneLedger(sharing, prompt_tokens).blocks_max() > kLaneBlocksMax ? LaneSharing{} : sharing;
}

LaneSharing SharingUnder(const PolicySpec& spec, const Policy& policy, LaneSharing sharing,
                         uint32_t prompt_tokens) {
  if (!policy.selection().by_share) return {};
  sharing.budget_tokens = spec.budget_tokens;
  sharing.window_tokens = WindowTokensOf(spec);
  return WithinLimits(sharing, prompt_tokens);
}

LaneLedger::LaneLedger(const LaneSharing& sharing, uint32_t prompt_tokens)
    : shares_(sharing.shares),
      even_pages_(prompt_tokens / kSlotsPerPage),
      ranks_(RankLanes(sharing.shares)),
      block_counts_(shares_.size()),
      live_(shares_.size()),
      keeps_mean_(sharing.budget_tokens),
      keeps_(LaneBudgets(shares_, sharing.budget_tokens)) {
  KV_CHECK(!shares_.empty());
  const uint64_t beside =
      uint64_t{prompt_tokens % kSlotsPerPage} + sharing.window_tokens + sharing.lag_tokens;
  const uint32_t even_tokens = even_pages_ * kSlotsPerPage;
  const uint64_t most = sharing.tokens_max - std::min(sharing.tokens_max, even_tokens);
  std::vector<uint32_t> capacities(shares_.size());
  for (size_t lane = 0; lane < capacities.size(); ++lane) {
    capacities[lane] = std::max(1u, BlocksOf(std::min(keeps_[lane] + beside, most)));
  }
  round_first_ = RoundsOf(capacities);
}

uint32_t LaneLedger::pages_max() const {
  return even_pages_ + (round_first_.back() + lanes() - 1) / lanes();
}

std::optional<uint32_t> LaneLedger::PagesFor(uint32_t tokens) const {
  const auto rounds = static_cast<uint32_t>(round_first_.size() - 1);
  uint32_t pages = 0;
  for (uint32_t lane = 0; lane < lanes(); ++lane) {
    const uint32_t blocks = BlocksOf(uint64_t{prompt_live_} + live_[lane] + tokens);
    if (blocks <= even_pages_) {
      pages = std::max(pages, blocks);
      continue;
    }
    const uint32_t round = blocks - 1 - even_pages_;
    if (round >= rounds) return std::nullopt;
    const uint32_t block = round_first_[round] + ranks_[lane];
    if (block >= round_first_[round + 1]) return std::nullopt;
    pages = std::max(pages, even_pages_ + block / lanes() + 1);
  }
  return pages;
}

void LaneLedger::SetPages(uint32_t pages) {
  pages_ = pages;
  CountBlocks(std::min(even_pages_, pages), pages, round_first_, ranks_,
              absl::MakeSpan(block_counts_));
}

uint32_t LaneLedger::DeadSlots() const {
  uint32_t least = std::numeric_limits<uint32_t>::max();
  for (uint32_t lane = 0; lane < lanes(); ++lane) {
    least = std::min(least, block_counts_[lane] * kSlotsPerPage - live_[lane]);
  }
  return least - prompt_live_;
}

void LaneLedger::Seal(uint32_t prompt_tokens, uint32_t other_tokens) {
  KV_CHECK(DeadSlots() >= prompt_tokens + other_tokens);
  prompt_live_ += prompt_tokens;
  for (uint32_t& live : live_) live += other_tokens;
}

absl::Span<const uint32_t> LaneLedger::Keeps(uint32_t mean) {
  if (mean != keeps_mean_) {
    keeps_ = LaneBudgets(shares_, mean);
    keeps_mean_ = mean;
  }
  return keeps_;
}

bool LaneLedger::Lowers(uint32_t mean) {
  const absl::Span<const uint32_t> keeps = Keeps(mean);
  for (uint32_t lane = 0; lane < lanes(); ++lane) {
    if (live_[lane] > keeps[lane]) return true;
  }
  return false;
}

void LaneLedger::Anneal(uint32_t mean) {
  const absl::Span<const uint32_t> keeps = Keeps(mean);
  for (uint32_t lane = 0; lane < lanes(); ++lane) live_[lane] = std::min(live_[lane], keeps[lane]);
}

uint32_t LaneLedger::mean_live() const {
  const uint64_t all = std::accumulate(live_.begin(), live_.end(), uint64_t{0});
  return static_cast<uint32_t>((all + lanes() - 1) / lanes());
}

uint64_t LaneLedger::bytes() const {
  return sizeof(uint32_t) * (round_first_.size() + block_counts_.size() + ranks_.size() +
                             live_.size() + keeps_.size());
}

}  // namespace palimpsest
