// SPDX-License-Identifier: Apache-2.0
#include "tests/fidelity/recording_backend.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kernels/cpu/codec.h"

namespace palimpsest {
namespace {

struct SlotState {
  bool live = false;
  uint32_t position = 0;
};

// Of a page's bytes from its positions on.
SlotState StateOf(const PageLayout& layout, const uint8_t* tail, size_t block, int slot) {
  SlotState state;
  uint16_t mask = 0;
  std::memcpy(&mask, tail + layout.masks_offset - layout.positions_offset + block * 2, 2);
  std::memcpy(&state.position, tail + (block * kSlotsPerPage + slot) * 4, 4);
  state.live = (mask >> slot & 1) != 0;
  return state;
}

constexpr int kNobody = -1;

// Whose each block of a class's pages is, or kNobody: [pages][lanes]. An uneven sequence has pages
// of one class only.
std::vector<int> OwnersOf(const SequenceView& view, size_t pages, absl::Span<const uint32_t> ranks,
                          int lanes) {
  std::vector<int> owners(pages * lanes, kNobody);
  if (pages == 0) return owners;
  for (int lane = 0; lane < lanes; ++lane) {
    const size_t blocks = view.uneven.empty() ? pages : view.uneven.block_counts[lane];
    for (uint32_t block = 0; block < blocks; ++block) {
      BlockPlace at{.page = block, .place = static_cast<uint32_t>(lane)};
      if (!view.uneven.empty()) at = PlaceOfBlock(view.uneven, lanes, lane, ranks[lane], block);
      KV_CHECK(at.page < pages);
      int& owner = owners[size_t{at.page} * lanes + at.place];
      KV_CHECK(owner == kNobody);
      owner = lane;
    }
  }
  return owners;
}

}  // namespace

RecordingBackend::RecordingBackend(std::unique_ptr<Backend> backend, const BackendConfig& config,
                                   uint32_t positions_max)
    : ForwardingBackend(std::move(backend)), config_(config) {
  KV_CHECK(!config.rotate_keys && activation_type() == ActivationType::kFloat32);
  KV_CHECK(positions_max % 8 == 0);
  if (config.codebook != nullptr) ranks_ = RankLanes(config.codebook->lane_shares);
  recording_.positions_max = positions_max;
}

absl::Status RecordingBackend::BeginStep(absl::Span<const SequenceView> sequences,
                                         absl::Span<const StepRows> rows) {
  KV_CHECK(sequences.size() == 1 && rows.size() == 1 && rows[0].row == 0);
  if (!recording_.step_tokens.empty()) KV_RETURN_IF_ERROR(RecordLive(sequences[0]));
  tokens_ += count_;
  count_ = rows[0].count;
  KV_CHECK(tokens_ == sequences[0].open_position + sequences[0].open_count);
  KV_CHECK(tokens_ + count_ <= recording_.positions_max);
  recording_.step_tokens.push_back(count_);
  return backend().BeginStep(sequences, rows);
}

absl::Status RecordingBackend::Append(int layer, const NewTokens& tokens) {
  NewTokens rounded = tokens;  // its queries are left as they are, and kept rounded
  rounded.k = Record(layer, config_.shape.kv_heads, tokens.k, recording_.k, k_);
  rounded.v = Record(layer, config_.shape.kv_heads, tokens.v, recording_.v, v_);
  return backend().Append(layer, rounded);
}

absl::Status RecordingBackend::Attend(int layer, const LayerActivations& io) {
  LayerActivations rounded = io;
  rounded.q = Record(layer, config_.query_heads, io.q, recording_.q, q_);
  return backend().Attend(layer, rounded);
}

absl::Status RecordingBackend::MeasureSparsity(int layer, absl::Span<const uint32_t> wanted,
                                               const LayerActivations& io,
                                               absl::Span<float> sparsity) {
  LayerActivations rounded = io;
  rounded.q = Record(layer, config_.query_heads, io.q, recording_.q, q_);
  KV_RETURN_IF_ERROR(backend().MeasureSparsity(layer, wanted, rounded, sparsity));
  recording_.sparsity.insert(recording_.sparsity.end(), sparsity.begin(), sparsity.end());
  return absl::OkStatus();
}

absl::Status RecordingBackend::Seal(absl::Span<const SequenceView> sequences,
                                    absl::Span<const SealOrder> orders) {
  KV_RETURN_IF_ERROR(backend().Seal(sequences, orders));
  for (const SealOrder& order : orders) {
    KV_RETURN_IF_ERROR(RecordStored(sequences[order.sequence], order.thought));
  }
  return absl::OkStatus();
}

absl::Status RecordingBackend::RecordStored(const SequenceView& view, Thought thought) {
  const PageLayout layout = MakePageLayout(config_.shape, view.formats.of(thought));
  const int dim = config_.shape.head_dim;
  const size_t lanes = static_cast<size_t>(config_.shape.lanes());
  const uint32_t end = view.open_position + view.open_count;
  recording_.stored_k.resize(end * lanes * dim);
  recording_.stored_v.resize(end * lanes * dim);
  const absl::Span<const PageOffset> pages = view.pages[Index(thought)];
  const std::vector<int> owners = OwnersOf(view, pages.size(), ranks_, config_.shape.lanes());
  std::vector<uint8_t> page(layout.page_bytes);
  std::vector<float> decoded(dim);
  for (size_t i = 0; i < pages.size(); ++i) {
    KV_RETURN_IF_ERROR(backend().Read(pages[i], absl::MakeSpan(page)));
    for (size_t block = 0; block < lanes; ++block) {
      const int lane = owners[i * lanes + block];
      if (lane == kNobody) continue;
      const uint8_t* const bytes = page.data() + block * layout.lane_bytes;
      for (int slot = 0; slot < kSlotsPerPage; ++slot) {
        const SlotState state = StateOf(layout, page.data() + layout.positions_offset, block, slot);
        if (!state.live || state.position < view.open_position) continue;
        const auto decode = [&](Format format, const uint8_t* data, const uint8_t* scales,
                                std::vector<uint16_t>& to) {
          DecodeSlot(format, data + slot * SlotDataBytes(format, dim),
                     scales + slot * SlotScaleBytes(format, dim), dim, decoded.data());
          std::transform(decoded.begin(), decoded.end(), &to[(state.position * lanes + lane) * dim],
                         FloatToBf16);
        };
        decode(layout.format.k, bytes, bytes + layout.k_scales_offset, recording_.stored_k);
        decode(layout.format.v, bytes + layout.v_data_offset, bytes + layout.v_scales_offset,
               recording_.stored_v);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status RecordingBackend::RecordLive(const SequenceView& view) {
  const int lanes = config_.shape.lanes();
  live_at_ = recording_.live.size();
  recording_.live.resize(live_at_ + size_t(lanes) * recording_.positions_max / 8, 0);
  std::vector<uint8_t> tail;  // of a page: positions and live masks
  for (const Thought thought : kThoughts) {
    const PageLayout layout = MakePageLayout(config_.shape, view.formats.of(thought));
    tail.resize(layout.page_bytes - layout.positions_offset);
    const absl::Span<const PageOffset> pages = view.pages[Index(thought)];
    const std::vector<int> owners = OwnersOf(view, pages.size(), ranks_, lanes);
    for (size_t i = 0; i < pages.size(); ++i) {
      KV_RETURN_IF_ERROR(backend().Read(pages[i] + layout.positions_offset, absl::MakeSpan(tail)));
      for (int block = 0; block < lanes; ++block) {
        const int lane = owners[i * lanes + block];
        for (int slot = 0; slot < kSlotsPerPage; ++slot) {
          const SlotState state = StateOf(layout, tail.data(), block, slot);
          KV_CHECK(!state.live || lane != kNobody);
          if (state.live) SetLive(lane, state.position);
        }
      }
    }
  }
  for (uint32_t i = 0; i < view.open_count; ++i) {
    for (int lane = 0; lane < lanes; ++lane) SetLive(lane, view.open_position + i);
  }
  return absl::OkStatus();
}

void RecordingBackend::SetLive(int lane, uint32_t position) {
  KV_CHECK(position < recording_.positions_max);
  uint8_t& byte =
      recording_.live[live_at_ + (size_t(lane) * recording_.positions_max + position) / 8];
  const auto bit = static_cast<uint8_t>(1u << position % 8);
  KV_CHECK((byte & bit) == 0);  // a token lives in one slot
  byte |= bit;
}

const float* RecordingBackend::Record(int layer, int heads, const void* rows,
                                      std::vector<uint16_t>& all, std::vector<float>& rounded) {
  const size_t width = size_t(heads) * config_.shape.head_dim;
  const auto* from = static_cast<const float*>(rows);
  all.resize(size_t{tokens_ + count_} * config_.shape.layers * width);
  rounded.resize(count_ * width);
  for (uint32_t row = 0; row < count_; ++row) {
    uint16_t* const to = &all[(size_t{tokens_ + row} * config_.shape.layers + layer) * width];
    for (size_t c = 0; c < width; ++c) {
      to[c] = FloatToBf16(from[row * width + c]);
      rounded[row * width + c] = Bf16ToFloat(to[c]);
    }
  }
  return rounded.data();
}

}  // namespace palimpsest
