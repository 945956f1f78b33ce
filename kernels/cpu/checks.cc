// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/checks.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/cpu/tile.h"

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
  std::sort(intervals.begin(), intervals.end());
  for (size_t i = 1; i < intervals.size(); ++i) {
    if (intervals[i].first < intervals[i - 1].second) return true;
  }
  return false;
}

bool Known(PageFormat format) {
  return static_cast<int>(format.k) < kFormatCount && static_cast<int>(format.v) < kFormatCount;
}

absl::Status CheckPages(const PoolMemory& memory, const SequenceView& view, Thought thought) {
  const PageFormat format = view.formats.of(thought);
  if (!Known(format)) return Invalid("unknown page format for class ", Letter(thought));
  const uint64_t page_bytes = memory.layout(format).page_bytes;
  const uint64_t pool_bytes = memory.config().pool_bytes;
  for (const PageOffset page : view.pages[Index(thought)]) {
    if (page % kPageAlignment != 0 || page_bytes > pool_bytes || page > pool_bytes - page_bytes) {
      return Invalid("page offset ", page, " of class ", Letter(thought),
                     " is unaligned or outside the pool of ", pool_bytes, " bytes");
    }
  }
  return absl::OkStatus();
}

// True when `accept` holds for every element of the rows' activations.
template <typename Accept>
bool AllOf(const void* data, absl::Span<const StepRows> rows, size_t row_width, Accept accept) {
  const auto* x = static_cast<const float*>(data);
  for (const StepRows& r : rows) {
    const float* first = x + r.row * row_width;
    if (!std::all_of(first, first + r.count * row_width, accept)) return false;
  }
  return true;
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
  return absl::OkStatus();
}

absl::Status CheckSequences(const PoolMemory& memory, absl::Span<const SequenceView> sequences) {
  for (const SequenceView& view : sequences) {
    for (const Thought thought : kThoughts) {
      KV_RETURN_IF_ERROR(CheckPages(memory, view, thought));
    }
    if (view.open_count > kGroupTokens) return Invalid("open_count ", view.open_count, " > 16");
    const bool none = view.open_group == kNoOpenGroup;
    if (none ? view.open_count != 0 : view.open_group >= memory.config().open_groups) {
      return Invalid("open group ", view.open_group, " with ", view.open_count,
                     " tokens; there are ", memory.config().open_groups, " open groups");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRows(const PoolMemory& memory, absl::Span<const SequenceView> sequences,
                       absl::Span<const StepRows> rows) {
  absl::InlinedVector<Interval, kUsualBatch> named, groups, used;
  for (const StepRows& r : rows) {
    if (r.sequence >= sequences.size()) return Invalid("no sequence ", r.sequence, " in this step");
    const SequenceView& view = sequences[r.sequence];
    if (r.count < 1 || r.count > kGroupTokens || view.open_count + r.count > kGroupTokens) {
      return Invalid("sequence ", r.sequence, ": ", r.count, " rows do not fit behind ",
                     view.open_count, " open tokens");
    }
    if (view.open_group >= memory.config().open_groups) {
      return Invalid("sequence ", r.sequence, " has no open group");
    }
    if (uint64_t{r.row} + r.count > memory.config().rows_max) {
      return Invalid("rows up to ", uint64_t{r.row} + r.count, " in a step; rows_max is ",
                     memory.config().rows_max);
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

absl::Status CheckLayer(const PoolMemory& memory, int layer) {
  if (layer >= 0 && layer < memory.shape().layers) return absl::OkStatus();
  return Invalid("layer ", layer, " of ", memory.shape().layers);
}

absl::Status CheckQueries(const PoolMemory& memory, absl::Span<const StepRows> rows,
                          const LayerActivations& io) {
  if (io.q == nullptr) return Invalid("q is null");
  if (!std::isfinite(io.scale)) return Invalid("the softmax scale is not finite");
  const size_t width = static_cast<size_t>(memory.config().query_heads) * memory.shape().head_dim;
  // The softmax would turn a NaN into a plausible average; better told here.
  if (!AllOf(io.q, rows, width, [](float x) { return std::isfinite(x); })) {
    return Invalid("q holds a NaN or an infinity");
  }
  return absl::OkStatus();
}

absl::Status CheckKeysAndValues(const PoolMemory& memory, absl::Span<const StepRows> rows,
                                const LayerActivations& io) {
  if (io.k == nullptr || io.v == nullptr) return Invalid("k or v is null");
  const size_t width = static_cast<size_t>(memory.shape().kv_heads) * memory.shape().head_dim;
  const auto number = [](float x) { return !std::isnan(x); };
  if (!AllOf(io.k, rows, width, number) || !AllOf(io.v, rows, width, number)) {
    return Invalid("k or v holds a NaN, which would poison every later step");
  }
  return absl::OkStatus();
}

absl::Status CheckRange(const PoolMemory& memory, PageOffset offset, uint64_t bytes) {
  const uint64_t pool_bytes = memory.config().pool_bytes;
  if (offset <= pool_bytes && bytes <= pool_bytes - offset) return absl::OkStatus();
  return Invalid(bytes, " bytes at ", offset, " lie outside the pool of ", pool_bytes, " bytes");
}

absl::Status CheckPagesDisjoint(const PoolMemory& memory,
                                absl::Span<const SequenceView* const> sequences) {
  std::vector<Interval> pages;
  for (const SequenceView* view : sequences) {
    for (const Thought thought : kThoughts) {
      const uint64_t bytes = memory.layout(view->formats.of(thought)).page_bytes;
      for (const PageOffset page : view->pages[Index(thought)]) {
        pages.emplace_back(page, page + bytes);
      }
    }
  }
  if (Overlap(pages)) return Invalid("two pages of a call overlap");
  return absl::OkStatus();
}

}  // namespace palimpsest
