// SPDX-License-Identifier: Apache-2.0
#include "kernels/checks.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/query_codebook.h"
#include "kernels/uneven_checks.h"

namespace palimpsest {
namespace {

constexpr size_t kUsualBatch = 64;  // inline room for per-call bookkeeping
constexpr uint32_t kRowsMax = 65536;
using Interval = std::pair<uint64_t, uint64_t>;  // [first, second)

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

template <typename Intervals>
bool Overlap(Intervals& intervals) {
  // As a rule they are in order.
  if (!std::is_sorted(intervals.begin(), intervals.end())) {
    std::sort(intervals.begin(), intervals.end());
  }
  for (size_t i = 1; i < intervals.size(); ++i) {
    if (intervals[i].first < intervals[i - 1].second) return true;
  }
  return false;
}

bool Known(PageFormat format) {
  return static_cast<int>(format.k) < kFormatCount && static_cast<int>(format.v) < kFormatCount;
}

// The first of these pages that is unaligned or ends behind `pool_bytes`; null if none is.
const PageOffset* FindStrayPage(absl::Span<const PageOffset> pages, uint64_t page_bytes,
                                uint64_t pool_bytes) {
  if (pages.empty()) return nullptr;
  if (page_bytes > pool_bytes) return pages.begin();
  const uint64_t last = pool_bytes - page_bytes;
  // In full caches there are 100,000 of them: all at once first. Both `page` and `last - page` have
  // their top bit clear just where page <= last, for last has.
  uint64_t all = 0, beyond = 0;
  for (const PageOffset page : pages) {
    all |= page;
    beyond |= last - page;
  }
  if (all % kPageAlignment == 0 && (all | beyond) >> 63 == 0) return nullptr;
  return std::find_if(pages.begin(), pages.end(),
                      [&](PageOffset page) { return page % kPageAlignment != 0 || page > last; });
}

absl::Status CheckPages(const PoolLayout& pool, const SequenceView& view, Thought thought) {
  const PageFormat format = view.formats.of(thought);
  if (!Known(format)) return Invalid("unknown page format for class ", Letter(thought));
  const uint64_t pool_bytes = pool.config().pool_bytes;
  const PageOffset* const stray =
      FindStrayPage(view.pages[Index(thought)], pool.page(format).page_bytes, pool_bytes);
  if (stray == nullptr) return absl::OkStatus();
  return Invalid("page offset ", *stray, " of class ", Letter(thought),
                 " is unaligned or outside the pool of ", pool_bytes, " bytes");
}

// Calls accept(first byte, end) for the pages of these sequences until it says no. True if it never
// does.
template <typename Accept>
bool AllPages(const PoolLayout& pool, absl::Span<const SequenceView* const> sequences,
              const Accept& accept) {
  for (const SequenceView* view : sequences) {
    for (const Thought thought : kThoughts) {
      const uint64_t bytes = pool.page(view->formats.of(thought)).page_bytes;
      for (const PageOffset page : view->pages[Index(thought)]) {
        if (!accept(page, page + bytes)) return false;
      }
    }
  }
  return true;
}

// No page of these sequences overlaps another: what must hold before pages are written. Without
// sorting, since full caches have thousands of pages: the pool is cut into buckets no larger than
// any page, so that two pages that begin in one overlap, and a page can only reach into the few
// buckets behind its own.
absl::Status CheckPagesDisjoint(const PoolLayout& pool,
                                absl::Span<const SequenceView* const> sequences) {
  const int bucket_shift = std::bit_width(pool.smallest_page_bytes()) - 1;
  const uint64_t buckets = (pool.config().pool_bytes >> bucket_shift) + 1;
  std::vector<uint64_t> begun(buckets / 64 + 1);  // a bit a bucket: a page begins there
  const auto begin = std::make_unique_for_overwrite<uint64_t[]>(buckets);  // and where
  const auto begin_page = [&](uint64_t first, uint64_t) {
    const uint64_t bucket = first >> bucket_shift;
    uint64_t& word = begun[bucket / 64];
    const uint64_t bit = uint64_t{1} << bucket % 64;
    begin[bucket] = first;
    if ((word & bit) != 0) return false;
    word |= bit;
    return true;
  };
  const auto ends_in_time = [&](uint64_t first, uint64_t end) {
    const uint64_t last = (end - 1) >> bucket_shift;
    for (uint64_t bucket = (first >> bucket_shift) + 1; bucket <= last; ++bucket) {
      if ((begun[bucket / 64] >> bucket % 64 & 1) != 0 && begin[bucket] < end) return false;
    }
    return true;
  };
  if (AllPages(pool, sequences, begin_page) && AllPages(pool, sequences, ends_in_time)) {
    return absl::OkStatus();
  }
  return Invalid("two pages of a call overlap");
}

// What Seal and Anneal orders have in common.
template <typename Order>
absl::Status CheckOrders(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                         absl::Span<const Order> orders) {
  KV_RETURN_IF_ERROR(CheckSequences(pool, sequences));
  std::vector<const SequenceView*> written;
  written.reserve(orders.size());
  for (const Order& order : orders) {
    if (order.sequence >= sequences.size()) return Invalid("no sequence ", order.sequence);
    if (static_cast<int>(order.thought) >= kThoughtCount) return Invalid("unknown thought class");
    written.push_back(&sequences[order.sequence]);
  }
  std::sort(written.begin(), written.end());
  written.erase(std::unique(written.begin(), written.end()), written.end());
  return CheckPagesDisjoint(pool, written);
}

absl::Status CheckSelection(const BackendConfig& config, const SequenceView& view,
                            const Selection& selection) {
  const auto missing = [](const char* what) {
    return absl::FailedPreconditionError(
        absl::StrCat("this backend was made without ", what, ", which the selector wants"));
  };
  if (selection.residue) {
    if (selection.selector == Selector::kKMeansMedoids) {
      return Invalid("k-means leaves no residue");
    }
    if (!config.shape.residue) return missing("residues");
    if (view.open_group == kNoOpenGroup) {
      return Invalid("a sequence without an open group has no residue");
    }
  }
  switch (selection.selector) {
    case Selector::kKMeansMedoids:
      if (RecentOf(selection, ~uint32_t{0}) == 0) return absl::OkStatus();
      return Invalid("k-means chooses among all tokens of a segment: none can stay as recent");
    case Selector::kMostRecent:
    case Selector::kRandom:
      return absl::OkStatus();
    case Selector::kAttentionReceived:
      if (!config.shape.slot_scores) return missing("slot scores");
      if (view.slot_score == SlotScore::kAttentionReceived) return absl::OkStatus();
      return Invalid("a selector wants the attention received, which the sequence's slots lack");
    case Selector::kJointScore:
      if (config.query_window == 0) return missing("a query window");
      if (view.keeps_queries && view.open_group != kNoOpenGroup) return absl::OkStatus();
      return Invalid("a selector wants the newest queries, and the sequence keeps none");
    case Selector::kAnticipated:
      return config.codebook != nullptr ? absl::OkStatus() : missing("a query codebook");
    case Selector::kValueAttention:
      return Invalid("this selector evicts in Attend, not in Anneal");
  }
  return Invalid("unknown selector");
}

absl::Status CheckCodebook(const BackendConfig& config) {
  if (config.codebook == nullptr) return absl::OkStatus();
  const QueryCodebook& book = *config.codebook;
  if (book.layers != config.shape.layers || book.query_heads != config.query_heads ||
      book.head_dim != config.shape.head_dim) {
    return Invalid("the query codebook is of ", book.layers, " layers, ", book.query_heads,
                   " query heads and head_dim ", book.head_dim, "; the model has ",
                   config.shape.layers, ", ", config.query_heads, " and ", config.shape.head_dim);
  }
  if (book.queries < 16 || book.queries > kCodebookQueriesMax || book.queries % 16 != 0) {
    return Invalid("the query codebook has ", book.queries,
                   " queries a head: expected a multiple of 16 from 16 to ", kCodebookQueriesMax);
  }
  const size_t values =
      size_t{book.queries} * book.layers * book.query_heads * static_cast<size_t>(book.head_dim);
  if (book.data.size() != values ||
      book.inverse_frequencies.size() != static_cast<size_t>(book.head_dim) / 2) {
    return Invalid("the query codebook's data are not of its size");
  }
  return CheckLaneShares(book.lane_shares, static_cast<size_t>(config.shape.lanes()));
}

}  // namespace

absl::Status CheckConfig(const BackendConfig& config) {
  const CacheShape& shape = config.shape;
  if (shape.layers < 1 || shape.kv_heads < 1 || shape.layers > 1024 || shape.kv_heads > 1024) {
    return Invalid("layers and kv_heads must be in 1..1024, got ", shape.layers, " and ",
                   shape.kv_heads);
  }
  if (shape.head_dim < kChannelsPerScale || shape.head_dim > kMaxHeadDim ||
      shape.head_dim % kChannelsPerScale != 0) {
    return Invalid("head_dim must be a multiple of 16 in 16..", kMaxHeadDim, ", got ",
                   shape.head_dim);
  }
  if (config.rotate_keys && (shape.head_dim & (shape.head_dim - 1)) != 0) {
    return Invalid("rotate_keys wants a head_dim that is a power of two, got ", shape.head_dim);
  }
  if (config.query_heads < 1 || config.query_heads % shape.kv_heads != 0) {
    return Invalid("query_heads must be a positive multiple of kv_heads (", shape.kv_heads,
                   "), got ", config.query_heads);
  }
  if (config.rows_max < 1 || config.rows_max > kRowsMax) {
    return Invalid("rows_max must be in 1..", kRowsMax, ", got ", config.rows_max);
  }
  if (config.pool_bytes > std::numeric_limits<int64_t>::max() / 2) {
    return Invalid("pool_bytes is out of range: ", config.pool_bytes);
  }
  if (config.open_groups > (uint32_t{1} << 20)) {
    return Invalid("open_groups is out of range: ", config.open_groups);
  }
  if (config.query_window > kQueryWindowMax) {
    return Invalid("query_window must be in 0..", kQueryWindowMax, ", got ", config.query_window);
  }
  return CheckCodebook(config);
}

absl::Status CheckSequences(const PoolLayout& pool, absl::Span<const SequenceView> sequences) {
  std::vector<uint32_t> counts;  // of blocks; one room for all
  for (const SequenceView& view : sequences) {
    for (const Thought thought : kThoughts) {
      KV_RETURN_IF_ERROR(CheckPages(pool, view, thought));
    }
    if (!view.uneven.empty()) KV_RETURN_IF_ERROR(CheckUneven(pool, view, &counts));
    if (view.open_count > kGroupTokens) return Invalid("open_count ", view.open_count, " > 16");
    const bool none = view.open_group == kNoOpenGroup;
    if (none ? view.open_count != 0 : view.open_group >= pool.config().open_groups) {
      return Invalid("open group ", view.open_group, " with ", view.open_count,
                     " tokens; there are ", pool.config().open_groups, " open groups");
    }
    if (view.slot_score > SlotScore::kValueNorm) return Invalid("unknown slot score");
    if (view.slot_score != SlotScore::kNone && !pool.shape().slot_scores) {
      return Invalid("a sequence wants slot scores; this backend was made without them");
    }
    if (view.keeps_queries && pool.config().query_window == 0) {
      return Invalid("a sequence wants its queries kept; this backend's query window is 0");
    }
    if (view.evict_from != kNoEviction && view.slot_score != SlotScore::kValueNorm) {
      return Invalid("a sequence evicts in Attend, yet its slots carry no norms of V");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRows(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                       absl::Span<const StepRows> rows) {
  absl::InlinedVector<Interval, kUsualBatch> named, groups, used;
  for (const StepRows& r : rows) {
    if (r.sequence >= sequences.size()) return Invalid("no sequence ", r.sequence, " in this step");
    const SequenceView& view = sequences[r.sequence];
    if (r.count < 1 || r.count > kGroupTokens || view.open_count + r.count > kGroupTokens) {
      return Invalid("sequence ", r.sequence, ": ", r.count, " rows do not fit behind ",
                     view.open_count, " open tokens");
    }
    if (view.open_group >= pool.config().open_groups) {
      return Invalid("sequence ", r.sequence, " has no open group");
    }
    if (view.evict_from != kNoEviction && r.count != 1) {
      return Invalid("sequence ", r.sequence, " evicts by the attention of one row and adds ",
                     r.count);
    }
    if (uint64_t{r.row} + r.count > pool.config().rows_max) {
      return Invalid("rows up to ", uint64_t{r.row} + r.count, " in a step; rows_max is ",
                     pool.config().rows_max);
    }
    named.emplace_back(r.sequence, uint64_t{r.sequence} + 1);
    groups.emplace_back(view.open_group, uint64_t{view.open_group} + 1);
    used.emplace_back(r.row, uint64_t{r.row} + r.count);
  }
  if (Overlap(named)) return Invalid("a sequence is named twice in one step");
  if (Overlap(groups)) return Invalid("two sequences of one step share an open group");
  if (Overlap(used)) return Invalid("rows of two sequences overlap");
  return absl::OkStatus();
}

absl::Status CheckLayer(const PoolLayout& pool, int layer) {
  if (layer >= 0 && layer < pool.shape().layers) return absl::OkStatus();
  return Invalid("layer ", layer, " of ", pool.shape().layers);
}

absl::Status CheckRange(const PoolLayout& pool, PageOffset offset, uint64_t bytes) {
  const uint64_t pool_bytes = pool.config().pool_bytes;
  if (offset <= pool_bytes && bytes <= pool_bytes - offset) return absl::OkStatus();
  return Invalid(bytes, " bytes at ", offset, " lie outside the pool of ", pool_bytes, " bytes");
}

absl::Status CheckOpenGroup(const PoolLayout& pool, uint32_t open_group) {
  if (open_group < pool.config().open_groups) return absl::OkStatus();
  return Invalid("no open group ", open_group, " of ", pool.config().open_groups);
}

bool AppendTakesQueries(const BackendConfig& config, absl::Span<const SequenceView> sequences) {
  return config.rotate_keys ||
         std::any_of(sequences.begin(), sequences.end(),
                     [](const SequenceView& view) { return view.keeps_queries; });
}

std::vector<bool> UnevenRows(absl::Span<const SequenceView> sequences,
                             absl::Span<const StepRows> rows) {
  std::vector<bool> uneven(rows.size());
  std::transform(rows.begin(), rows.end(), uneven.begin(),
                 [&](const StepRows& r) { return !sequences[r.sequence].uneven.empty(); });
  return uneven;
}

absl::Status CheckWanted(absl::Span<const uint32_t> wanted, const std::vector<bool>& uneven,
                         size_t results) {
  if (wanted.size() != results) {
    return Invalid("room for ", results, " results of ", wanted.size());
  }
  for (const uint32_t index : wanted) {
    if (index >= uneven.size()) return Invalid("no rows ", index, " in a step of ", uneven.size());
    if (uneven[index]) return Invalid("sparsity is not measured of uneven sequences");
  }
  return absl::OkStatus();
}

absl::Status CheckSeal(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                       absl::Span<const SealOrder> orders) {
  KV_RETURN_IF_ERROR(CheckOrders(pool, sequences, orders));
  std::vector<Interval> named;
  named.reserve(orders.size());
  for (const SealOrder& order : orders) {
    named.emplace_back(order.sequence, uint64_t{order.sequence} + 1);
  }
  if (Overlap(named)) return Invalid("a sequence is sealed twice in one call");
  return absl::OkStatus();
}

absl::Status CheckAnneal(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                         absl::Span<const AnnealOrder> orders) {
  KV_RETURN_IF_ERROR(CheckOrders(pool, sequences, orders));
  for (const AnnealOrder& order : orders) {
    KV_RETURN_IF_ERROR(CheckLaneKeeps(pool, sequences[order.sequence], order));
    KV_RETURN_IF_ERROR(CheckSelection(pool.config(), sequences[order.sequence], order.selection));
    if (order.first_position > order.end_position) {
      return Invalid("a segment ends before it begins");
    }
  }
  return absl::OkStatus();
}

}  // namespace palimpsest
