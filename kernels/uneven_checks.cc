// SPDX-License-Identifier: Apache-2.0
#include "kernels/uneven_checks.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace palimpsest {
namespace {

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// Of what rounds of blocks an uneven sequence has.
absl::Status CheckRounds(absl::Span<const uint32_t> round_first, uint32_t lanes) {
  if (round_first.empty() || round_first[0] != 0) {
    return Invalid("an uneven sequence's round_first does not begin with 0");
  }
  uint32_t size = lanes;  // of the round before
  for (size_t i = 1; i < round_first.size(); ++i) {
    const uint32_t next = round_first[i] - round_first[i - 1];  // wraps where it falls: too large
    if (next < 1 || next > size) {
      return Invalid("round ", i - 1, " of an uneven sequence has ", static_cast<int32_t>(next),
                     " blocks: expected 1..", size, ", no more than the round before");
    }
    size = next;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckUneven(const PoolLayout& pool, const SequenceView& view,
                         std::vector<uint32_t>* counts) {
  const UnevenLanes& uneven = view.uneven;
  const std::vector<uint32_t>& ranks = pool.lane_ranks();
  if (ranks.empty()) {
    return Invalid("a sequence's lanes are uneven; this backend has no codebook with lane_shares");
  }
  if (uneven.block_counts.size() != ranks.size()) {
    return Invalid("an uneven sequence has ", uneven.block_counts.size(), " block_counts; the ",
                   "model has ", ranks.size(), " lanes");
  }
  for (const Thought thought : kThoughts) {
    if (thought == Thought::kReasoning || view.pages[Index(thought)].empty()) continue;
    return Invalid("an uneven sequence has pages of class ", Letter(thought));
  }
  const auto pages = static_cast<uint32_t>(view.pages[Index(Thought::kReasoning)].size());
  if (uneven.even_pages > pages) {
    return Invalid("an uneven sequence of ", pages, " pages has ", uneven.even_pages, " even ones");
  }
  KV_RETURN_IF_ERROR(CheckRounds(uneven.round_first, static_cast<uint32_t>(ranks.size())));
  counts->resize(ranks.size());
  CountBlocks(uneven.even_pages, pages, uneven.round_first, ranks, absl::MakeSpan(*counts));
  if (!std::equal(counts->begin(), counts->end(), uneven.block_counts.begin())) {
    const auto wrong = std::mismatch(counts->begin(), counts->end(), uneven.block_counts.begin());
    return Invalid("lane ", wrong.first - counts->begin(), " of an uneven sequence has ",
                   *wrong.first, " blocks in its pages; block_counts says ", *wrong.second);
  }
  if (view.slot_score != SlotScore::kNone || view.keeps_queries || view.evict_from != kNoEviction) {
    return Invalid("an uneven sequence has slot scores, keeps queries or evicts in Attend");
  }
  return absl::OkStatus();
}

absl::Status CheckLaneKeeps(const PoolLayout& pool, const SequenceView& view,
                            const AnnealOrder& order) {
  if (view.uneven.empty()) {
    if (order.lane_keeps.empty()) return absl::OkStatus();
    return Invalid("lane_keeps for a sequence that is not uneven");
  }
  const Selector selector = order.selection.selector;
  if (selector != Selector::kMostRecent && selector != Selector::kRandom &&
      selector != Selector::kAnticipated) {
    return Invalid("this selector does not work on uneven sequences");
  }
  const auto lanes = static_cast<size_t>(pool.shape().lanes());
  if (order.lane_keeps.empty() || order.lane_keeps.size() == lanes) return absl::OkStatus();
  return Invalid("lane_keeps has ", order.lane_keeps.size(), " values; the model has ", lanes,
                 " lanes");
}

}  // namespace palimpsest
