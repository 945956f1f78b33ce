// SPDX-License-Identifier: Apache-2.0
#include "bench/attend_case.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "bench/gpu/random_data.h"
#include "bench/random_shares.h"
#include "common/base/status_macros.h"
#include "kernels/block_rounds.h"

namespace palimpsest::bench {
namespace {

using cuda::AllocateDevice;
using cuda::DeviceBytes;
using cuda::ToStatus;

constexpr uint64_t kColdBytes = uint64_t{256} << 20;  // five times an H100's L2 cache
constexpr int kLayersMax = 128;
constexpr uint32_t kRowsMax = 512;        // as the engine's
constexpr uint32_t kLivePunched = 12;     // of a page's 16 slots
constexpr uint32_t kDistinctRows = 8192;  // different K and V rows that pages are filled from
constexpr float kQueryDeviation = 2.0f;   // peaked enough for a lost token to show
constexpr uint32_t kEvenPages = 4;        // of uneven sequences

}  // namespace

absl::StatusOr<std::unique_ptr<AttendBed>> AttendBed::Make(const AttendCase& spec) {
  auto bed = std::unique_ptr<AttendBed>(new AttendBed(spec));
  KV_RETURN_IF_ERROR(bed->Build());
  return bed;
}

absl::Status AttendBed::Build() {
  const uint32_t sealed = spec_.live - kGroupTokens;
  const uint32_t a_page = spec_.holes ? kLivePunched : kSlotsPerPage;
  pages_each_ = (sealed + a_page - 1) / a_page;
  if (spec_.formats == ClassFormats::Uniform(spec_.formats.of(Thought::kReasoning))) {
    pages_of_class_[Index(Thought::kReasoning)] = pages_each_;
  } else if (spec_.uneven) {
    return absl::InvalidArgumentError("pages of uneven sequences are of one class");
  } else {
    const uint32_t t = pages_each_ / 5, e = pages_each_ * 3 / 10;
    pages_of_class_ = {t, e, pages_each_ - t - e};
  }
  KV_RETURN_IF_ERROR(MakeBackend());
  KV_RETURN_IF_ERROR(MakeActivations());
  KV_RETURN_IF_ERROR(Fill());
  return spec_.holes ? Punch() : absl::OkStatus();
}

absl::Status AttendBed::MakeBackend() {
  CacheShape shape{.layers = 1,
                   .kv_heads = spec_.kv_heads,
                   .head_dim = spec_.head_dim,
                   .slot_scores = spec_.slot_scores};
  const auto pool_bytes = [&] {
    uint64_t sequence = 0;
    for (const Thought thought : kThoughts) {
      layouts_[Index(thought)] = MakePageLayout(shape, spec_.formats.of(thought));
      sequence += pages_of_class_[Index(thought)] * layouts_[Index(thought)].page_bytes;
    }
    return spec_.batch * sequence;
  };
  const uint64_t each = pool_bytes() + spec_.batch * OpenGroupBytes(shape);
  const uint64_t wanted = std::clamp<uint64_t>((kColdBytes + each - 1) / each, 2, kLayersMax);
  layers_ = spec_.layers > 0 ? spec_.layers
                             : static_cast<int>(std::min(wanted, spec_.memory_bytes / each));
  if (layers_ == 0 || layers_ * each > spec_.memory_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("one layer takes ", each, " bytes, ", spec_.memory_bytes, " are allowed"));
  }
  shape.layers = layers_;
  BackendConfig config = {.shape = shape,
                          .query_heads = spec_.query_heads,
                          .pool_bytes = pool_bytes(),
                          .open_groups = spec_.batch,
                          .rows_max = kRowsMax};
  if (spec_.uneven) {
    auto book = std::make_shared<QueryCodebook>();
    *book = {.layers = layers_,
             .query_heads = spec_.query_heads,
             .head_dim = spec_.head_dim,
             .queries = 16,
             .data = std::vector<uint16_t>(size_t{16} * layers_ * spec_.query_heads *
                                           static_cast<size_t>(spec_.head_dim)),
             .inverse_frequencies = std::vector<float>(spec_.head_dim / 2),
             .lane_shares = RandomShares(static_cast<uint32_t>(shape.lanes()))};
    config.codebook = codebook_ = book;
  }
  KV_ASSIGN_OR_RETURN(backend_, NewCudaBackend(config, {}));
  PlacePages();
  if (spec_.uneven) KV_RETURN_IF_ERROR(DealBlocks());
  return backend_->Zero(0, config.pool_bytes);
}

absl::Status AttendBed::DealBlocks() {
  const std::vector<float>& shares = codebook_->lane_shares;
  const std::vector<uint32_t> ranks = RankLanes(shares);
  const auto lanes = static_cast<uint32_t>(shares.size());
  const uint32_t even_pages = std::min(kEvenPages, pages_each_), others = pages_each_ - even_pages;
  std::vector<uint32_t> blocks_max;
  for (const float share : shares) {  // some more than there are, so that none is nobody's
    blocks_max.push_back(2 + static_cast<uint32_t>(share * static_cast<float>(others)));
  }
  round_first_ = RoundsOf(blocks_max);
  block_counts_.resize(lanes);
  CountBlocks(even_pages, pages_each_, round_first_, ranks, absl::MakeSpan(block_counts_));

  const UnevenLanes uneven = {
      .even_pages = even_pages, .round_first = round_first_, .block_counts = block_counts_};
  std::vector<uint32_t> first_block = {0}, blocks;
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    for (uint32_t i = 0; i < block_counts_[lane]; ++i) {
      const BlockPlace at = PlaceOfBlock(uneven, lanes, lane, ranks[lane], i);
      blocks.push_back(at.page * lanes + at.place);
    }
    first_block.push_back(static_cast<uint32_t>(blocks.size()));
  }
  const auto copy = [&](const std::vector<uint32_t>& from, DeviceBytes* to) -> absl::Status {
    const uint64_t bytes = from.size() * sizeof(uint32_t);
    KV_ASSIGN_OR_RETURN(*to, AllocateDevice(bytes, stream(), "blocks of lanes"));
    KV_RETURN_IF_ERROR(
        ToStatus(cudaMemcpyAsync(to->get(), from.data(), bytes, cudaMemcpyHostToDevice, stream()),
                 "blocks of lanes"));
    return backend_->Synchronize();
  };
  KV_RETURN_IF_ERROR(copy(first_block, &first_block_));
  return copy(blocks, &blocks_);
}

// Gives the pages of all sequences their places, in random order.
void AttendBed::PlacePages() {
  const uint64_t count = uint64_t{spec_.batch} * pages_each_;
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  offsets_.resize(count);
  uint64_t offset = 0;
  for (const uint32_t page : order) {
    offsets_[page] = offset;
    offset += layouts_[Index(ClassOf(page % pages_each_))].page_bytes;
  }
  position_.assign(spec_.batch, 0);
  for (uint32_t s = 0; s < spec_.batch; ++s) {
    views_.push_back({.formats = spec_.formats, .open_group = s, .slot_score = spec_.slot_score});
  }
}

Thought AttendBed::ClassOf(uint32_t page) const {
  for (const Thought thought : kThoughts) {
    if (page < pages_of_class_[Index(thought)]) return thought;
    page -= pages_of_class_[Index(thought)];
  }
  return Thought::kReasoning;
}

absl::Status AttendBed::MakeActivations() {
  const uint64_t kv_row = uint64_t(spec_.kv_heads) * spec_.head_dim;
  const uint64_t q_count = uint64_t{spec_.batch} * spec_.query_heads * spec_.head_dim;
  const uint64_t kv_count = (kDistinctRows + kRowsMax) * kv_row;
  for (DeviceBytes* rows : {&keys_, &values_}) {
    KV_ASSIGN_OR_RETURN(*rows, AllocateDevice(kv_count * 2, stream(), "K or V rows"));
    const uint64_t seed = rows == &keys_ ? 1 : 2;
    KV_RETURN_IF_ERROR(
        ToStatus(FillNormal(rows->get(), kv_count, 1.0f, seed, stream()), "K or V rows"));
  }
  KV_ASSIGN_OR_RETURN(q_, AllocateDevice(q_count * 2, stream(), "queries"));
  KV_ASSIGN_OR_RETURN(out_, AllocateDevice(q_count * 2, stream(), "outputs"));
  return ToStatus(FillNormal(q_.get(), q_count, kQueryDeviation, 3, stream()), "queries");
}

absl::Status AttendBed::Fill() {
  for (uint32_t page = 0; page < pages_each_; ++page) KV_RETURN_IF_ERROR(FillPage(page));
  // The open groups: 15 tokens, and the step's own.
  for (uint32_t first = 0; first < spec_.batch; first += kRowsMax / kGroupTokens) {
    const uint32_t end = std::min(first + kRowsMax / kGroupTokens, spec_.batch);
    KV_RETURN_IF_ERROR(AppendTokens(first, end, kGroupTokens - 1));
  }
  std::vector<PageRef> refs(offsets_);
  for (uint64_t i = 0; i < refs.size(); ++i) {
    refs[i] |= Index(ClassOf(static_cast<uint32_t>(i % pages_each_)));
  }
  KV_ASSIGN_OR_RETURN(pages_, AllocateDevice(refs.size() * sizeof(PageRef), stream(), "pages"));
  KV_RETURN_IF_ERROR(
      ToStatus(cudaMemcpyAsync(pages_.get(), refs.data(), refs.size() * sizeof(PageRef),
                               cudaMemcpyHostToDevice, stream()),
               "pages"));
  for (uint32_t s = 0; s < spec_.batch; ++s) {
    uint64_t first = uint64_t{s} * pages_each_;
    for (const Thought thought : kThoughts) {
      const uint32_t count = pages_of_class_[Index(thought)];
      views_[s].pages[Index(thought)] = absl::MakeConstSpan(offsets_).subspan(first, count);
      first += count;
    }
  }
  for (SequenceView& view : views_) {
    if (spec_.slot_score == SlotScore::kValueNorm) view.evict_from = kPromptTokens;
    // Filled as even sequences are. Which lane a block is of makes no difference to its tokens.
    if (spec_.uneven) {
      view.uneven = {.even_pages = std::min(kEvenPages, pages_each_),
                     .round_first = round_first_,
                     .block_counts = block_counts_};
    }
  }
  KV_RETURN_IF_ERROR(AppendTokens(0, spec_.batch, 1));
  return backend_->Synchronize();
}

// Fills page `page` of every sequence: 16 tokens into the open groups, then sealed.
absl::Status AttendBed::FillPage(uint32_t page) {
  const Thought thought = ClassOf(page);
  constexpr uint32_t kSequences = kRowsMax / kGroupTokens;
  std::vector<SealOrder> orders;
  for (uint32_t first = 0; first < spec_.batch; first += kSequences) {
    const uint32_t end = std::min(first + kSequences, spec_.batch);
    KV_RETURN_IF_ERROR(AppendTokens(first, end, kGroupTokens));
    orders.clear();
    for (uint32_t s = first; s < end; ++s) {
      views_[s].pages[Index(thought)] = {&offsets_[uint64_t{s} * pages_each_ + page], 1};
      orders.push_back({.sequence = s - first, .thought = thought});
    }
    KV_RETURN_IF_ERROR(
        backend_->Seal(absl::MakeConstSpan(views_).subspan(first, end - first), orders));
    KV_RETURN_IF_ERROR(backend_->Synchronize());  // the views change now
    for (uint32_t s = first; s < end; ++s) {
      views_[s].pages[Index(thought)] = {};
      views_[s].open_count = 0;
      views_[s].open_position = position_[s];
    }
  }
  return absl::OkStatus();
}

// Appends `count` tokens to the open group of each of the sequences [first, end).
absl::Status AttendBed::AppendTokens(uint32_t first, uint32_t end, uint32_t count) {
  std::vector<StepRows> rows;
  for (uint32_t s = first; s < end; ++s) {
    rows.push_back({.sequence = s - first, .row = (s - first) * count, .count = count});
  }
  KV_RETURN_IF_ERROR(
      backend_->BeginStep(absl::MakeConstSpan(views_).subspan(first, end - first), rows));
  for (int layer = 0; layer < layers_; ++layer) {
    // A window of the random rows, another one for every page and layer.
    const uint64_t at = (uint64_t{position_[first]} * 131 + uint64_t{first} * 17 + layer * 7919) %
                        kDistinctRows * spec_.kv_heads * spec_.head_dim * 2;
    const NewTokens tokens{.k = keys_.get() + at, .v = values_.get() + at};
    KV_RETURN_IF_ERROR(backend_->Append(layer, tokens));
  }
  const bool is_own = count == 1;  // the step's own token: the step goes on
  for (uint32_t s = first; s < end; ++s) {
    position_[s] += count;
    if (!is_own) views_[s].open_count += count;
  }
  return absl::OkStatus();
}

absl::Status AttendBed::Punch() {
  std::vector<uint8_t> live(pages_each_, kLivePunched);
  const uint32_t sealed = spec_.live - kGroupTokens;
  live.back() = static_cast<uint8_t>(sealed - (pages_each_ - 1) * kLivePunched);
  KV_ASSIGN_OR_RETURN(const DeviceBytes counts,
                      AllocateDevice(live.size(), stream(), "live counts"));
  KV_RETURN_IF_ERROR(ToStatus(
      cudaMemcpyAsync(counts.get(), live.data(), live.size(), cudaMemcpyHostToDevice, stream()),
      "live counts"));
  KV_RETURN_IF_ERROR(ToStatus(PunchHoles(Pages(), counts.get(), 4, stream()), "holes"));
  return backend_->Synchronize();
}

PagesOnDevice AttendBed::Pages() const {
  PagesOnDevice on = {.pool = backend_->pool(),
                      .pages = reinterpret_cast<const PageRef*>(pages_.get()),
                      .batch = spec_.batch,
                      .pages_each = pages_each_,
                      .first_block = reinterpret_cast<const uint32_t*>(first_block_.get()),
                      .blocks = reinterpret_cast<const uint32_t*>(blocks_.get())};
  std::copy(layouts_.begin(), layouts_.end(), on.layouts);
  return on;
}

float AttendBed::scale() const { return 1.0f / std::sqrt(static_cast<float>(spec_.head_dim)); }

absl::Status AttendBed::Attend(int layer) {
  return backend_->Attend(layer, {.q = q_.get(), .out = out_.get(), .scale = scale()});
}

uint64_t AttendBed::bytes() const { return BytesOfPages(1.0) + OtherBytes(); }

uint64_t AttendBed::live_bytes() const {
  const double slots = static_cast<double>(pages_each_) * kSlotsPerPage;
  return BytesOfPages((spec_.live - kGroupTokens) / slots) + OtherBytes();
}

uint64_t AttendBed::BytesOfPages(double share_of_slots) const {
  uint64_t bytes = 0;
  for (const Thought thought : kThoughts) {
    const double lane = static_cast<double>(layouts_[Index(thought)].lane_bytes);
    bytes += pages_of_class_[Index(thought)] * (static_cast<uint64_t>(lane * share_of_slots) + 2);
  }
  return bytes * spec_.batch * spec_.kv_heads;
}

uint64_t AttendBed::OtherBytes() const {
  const uint64_t dim = spec_.head_dim, bf16 = 2;
  const uint64_t open = 2 * kGroupTokens * spec_.kv_heads * dim * bf16;
  return spec_.batch * (open + 2 * spec_.query_heads * dim * bf16);
}

}  // namespace palimpsest::bench
