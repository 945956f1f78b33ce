// SPDX-License-Identifier: Apache-2.0
#include "bench/select_bed.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "bench/gpu/random_data.h"
#include "bench/random_shares.h"
#include "common/base/status_macros.h"
#include "common/policy/lane_budgets.h"
#include "kernels/block_rounds.h"
#include "kernels/cpu/codec.h"

namespace palimpsest::bench {
namespace {

using cuda::AllocateDevice;
using cuda::ToStatus;

constexpr uint32_t kRowsMax = 512;        // as the engine's
constexpr uint32_t kDistinctRows = 8192;  // different K and V rows that pages are filled from
constexpr uint32_t kAlikeRows = 64;
constexpr uint32_t kQueryWindow = 8;

}  // namespace

std::shared_ptr<QueryCodebook> RandomCodebook(const CacheShape& shape, int query_heads,
                                              uint32_t queries) {
  auto book = std::make_shared<QueryCodebook>();
  book->layers = shape.layers;
  book->query_heads = query_heads;
  book->head_dim = shape.head_dim;
  book->queries = queries;
  std::mt19937 engine(7);
  std::normal_distribution<float> normal(0.0f, 1.5f);
  std::vector<uint16_t> numbers(65521);  // a prime: they come round at other places
  for (uint16_t& x : numbers) x = FloatToBf16(normal(engine));
  book->data.resize(size_t{queries} * shape.layers * query_heads * shape.head_dim);
  for (size_t i = 0; i < book->data.size(); ++i) book->data[i] = numbers[i % numbers.size()];
  for (int c = 0; c < shape.head_dim / 2; ++c) {
    book->inverse_frequencies.push_back(
        static_cast<float>(std::pow(500000.0, -2.0 * c / shape.head_dim)));
  }
  return book;
}

SelectBed::SelectBed(const SelectCase& spec)
    : spec_(spec),
      shares_(RandomShares(static_cast<uint32_t>(spec.shape.lanes()))),
      layout_(MakePageLayout(spec.shape, spec.format)),
      pages_each_(spec.live_max / kSlotsPerPage) {}

absl::StatusOr<std::unique_ptr<SelectBed>> SelectBed::Make(const SelectCase& spec) {
  auto bed = std::unique_ptr<SelectBed>(new SelectBed(spec));
  KV_RETURN_IF_ERROR(bed->Build());
  return bed;
}

absl::Status SelectBed::Build() {
  const uint64_t pages = uint64_t{spec_.batch} * pages_each_;
  BackendConfig config = {.shape = spec_.shape,
                          .query_heads = spec_.query_heads,
                          .pool_bytes = pages * layout_.page_bytes,
                          .open_groups = spec_.batch,
                          .rows_max = kRowsMax,
                          .query_window = kQueryWindow};
  if (spec_.codebook_queries > 0) {
    const auto book = RandomCodebook(spec_.shape, spec_.query_heads, spec_.codebook_queries);
    if (spec_.uneven) book->lane_shares = shares_;
    config.codebook = book;
  }
  KV_ASSIGN_OR_RETURN(backend_, NewCudaBackend(config, {}));
  KV_RETURN_IF_ERROR(backend_->Zero(0, config.pool_bytes));
  offsets_.resize(pages);
  for (uint64_t i = 0; i < pages; ++i) offsets_[i] = i * layout_.page_bytes;
  std::shuffle(offsets_.begin(), offsets_.end(), std::mt19937(1));
  KV_RETURN_IF_ERROR(MakeRows());
  constexpr uint32_t kSequences = kRowsMax / kGroupTokens;
  for (uint32_t page = 0; page < pages_each_; ++page) {
    for (uint32_t first = 0; first < spec_.batch; first += kSequences) {
      KV_RETURN_IF_ERROR(FillPage(page, first, std::min(first + kSequences, spec_.batch)));
    }
  }
  return backend_->Synchronize();
}

absl::Status SelectBed::MakeRows() {
  const uint64_t row = static_cast<uint64_t>(spec_.shape.kv_heads) * spec_.shape.head_dim;
  const uint64_t count = (kDistinctRows + kRowsMax) * row;
  for (cuda::DeviceBytes* rows : {&keys_, &values_}) {
    KV_ASSIGN_OR_RETURN(*rows, AllocateDevice(count * 2, stream(), "K or V rows"));
    const uint64_t seed = rows == &keys_ ? 1 : 2;
    KV_RETURN_IF_ERROR(
        ToStatus(FillNormal(rows->get(), count, 1.0f, seed, stream()), "K or V rows"));
  }
  if (!spec_.alike) return absl::OkStatus();
  const uint64_t bytes = kAlikeRows * row * 2;
  for (uint64_t at = bytes; at + bytes <= count * 2; at += bytes) {
    KV_RETURN_IF_ERROR(ToStatus(
        cudaMemcpyAsync(keys_.get() + at, keys_.get(), bytes, cudaMemcpyDeviceToDevice, stream()),
        "K rows"));
  }
  return absl::OkStatus();
}

// 16 tokens of sequences [first, end) to their page `page`.
absl::Status SelectBed::FillPage(uint32_t page, uint32_t first, uint32_t end) {
  std::vector<SequenceView> views;
  std::vector<StepRows> rows;
  std::vector<SealOrder> orders;
  for (uint32_t s = first; s < end; ++s) {
    SequenceView& view = views.emplace_back();
    view.pages[Index(Thought::kReasoning)] = {&offsets_[uint64_t{s} * pages_each_ + page], 1};
    view.formats = ClassFormats::Uniform(spec_.format);
    view.open_group = s;
    view.open_position = page * kGroupTokens;
    rows.push_back(
        {.sequence = s - first, .row = (s - first) * kGroupTokens, .count = kGroupTokens});
    orders.push_back({.sequence = s - first, .thought = Thought::kReasoning});
  }
  KV_RETURN_IF_ERROR(backend_->BeginStep(views, rows));
  for (int layer = 0; layer < spec_.shape.layers; ++layer) {
    // A window of the random rows, another one for every page and layer.
    const uint64_t row =
        spec_.alike ? page % 4 * kGroupTokens
                    : (uint64_t{page} * 2131 + uint64_t{first} * 17 + layer * 7919) % kDistinctRows;
    const uint64_t at = row * spec_.shape.kv_heads * spec_.shape.head_dim * 2;
    KV_RETURN_IF_ERROR(backend_->Append(layer, {.k = keys_.get() + at, .v = values_.get() + at}));
  }
  for (SequenceView& view : views) view.open_count = kGroupTokens;
  KV_RETURN_IF_ERROR(backend_->Seal(views, orders));
  return backend_->Synchronize();  // the views go
}

absl::Status SelectBed::Deal(uint32_t live, uint32_t keep) {
  lane_keeps_ = LaneBudgets(shares_, keep);
  block_counts_.clear();
  for (const uint32_t keeps : lane_keeps_) {
    block_counts_.push_back((keeps + live - keep) / kSlotsPerPage);
  }
  round_first_ = RoundsOf(block_counts_);
  return WritePositions(live / kSlotsPerPage);
}

absl::Status SelectBed::WritePositions(uint32_t pages) {
  const auto lanes = static_cast<uint32_t>(spec_.shape.lanes());
  const std::vector<uint32_t> ranks = RankLanes(shares_);
  const size_t of_page = size_t{lanes} * kSlotsPerPage;
  std::vector<uint32_t> positions(pages * of_page);
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    for (uint32_t i = 0; i < block_counts_[lane]; ++i) {
      const BlockPlace at = PlaceOfBlock(Uneven(), lanes, lane, ranks[lane], i);
      std::iota(positions.begin() + at.page * of_page + at.place * kSlotsPerPage,
                positions.begin() + at.page * of_page + (at.place + 1) * kSlotsPerPage,
                i * kSlotsPerPage);
    }
  }
  for (uint32_t s = 0; s < spec_.batch; ++s) {
    for (uint32_t page = 0; page < pages; ++page) {
      uint8_t* to = backend_->pool().pages + offsets_[uint64_t{s} * pages_each_ + page] +
                    layout_.positions_offset;
      KV_RETURN_IF_ERROR(
          ToStatus(cudaMemcpyAsync(to, &positions[page * of_page], of_page * sizeof(uint32_t),
                                   cudaMemcpyHostToDevice, stream()),
                   "positions"));
    }
  }
  return backend_->Synchronize();
}

absl::Status SelectBed::Anneal(uint32_t live, uint32_t keep, Selection selection) {
  std::vector<SequenceView> views(spec_.batch);
  std::vector<AnnealOrder> orders;
  for (uint32_t s = 0; s < spec_.batch; ++s) {
    SequenceView& view = views[s];
    view.pages[Index(Thought::kReasoning)] =
        absl::MakeConstSpan(offsets_).subspan(uint64_t{s} * pages_each_, live / kSlotsPerPage);
    view.formats = ClassFormats::Uniform(spec_.format);
    view.open_group = s;
    view.open_position = live;
    view.keeps_queries = NeedsQueries(selection.selector);
    if (spec_.uneven) view.uneven = Uneven();
    orders.push_back({.sequence = s,
                      .thought = Thought::kReasoning,
                      .end_position = spec_.uneven ? ~uint32_t{0} : live,
                      .keep = keep,
                      .lane_keeps = lane_keeps_,
                      .selection = selection});
  }
  return backend_->Anneal(views, orders);
}

absl::Status SelectBed::Revive() {
  // Pages lie side by side, all slots are in use, and the masks of a page's lanes too.
  const size_t lanes = static_cast<size_t>(spec_.shape.lanes());
  return ToStatus(
      cudaMemset2DAsync(backend_->pool().pages + layout_.masks_offset, layout_.page_bytes, 0xff,
                        lanes * sizeof(uint16_t), offsets_.size(), stream()),
      "reviving tokens");
}

}  // namespace palimpsest::bench
