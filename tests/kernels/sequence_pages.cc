// SPDX-License-Identifier: Apache-2.0
// The part of ModelSequence that knows in which page and slot a token lies.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "common/base/check.h"
#include "gtest/gtest.h"
#include "kernels/cpu/codec.h"
#include "tests/kernels/sequence_model.h"

namespace palimpsest {
namespace {

std::vector<double> Decode(Format format, const std::vector<uint8_t>& data,
                           const std::vector<uint8_t>& scales, int head_dim) {
  std::vector<float> x(head_dim);
  DecodeSlot(format, data.data(), scales.data(), head_dim, x.data());
  return {x.begin(), x.end()};
}

}  // namespace

void ModelSequence::MakeUneven(absl::Span<const uint32_t> capacities) {
  const std::vector<PageOffset>& pages = pages_[Index(Thought::kReasoning)];
  KV_CHECK(pages_[Index(Thought::kExecution)].empty());
  KV_CHECK(pages_[Index(Thought::kTransition)].empty());
  uneven_.emplace(static_cast<uint32_t>(pages.size()),
                  RankLanes(device_->config().codebook->lane_shares), capacities);
  while (uneven_->pages() < pages.size()) uneven_->AddPage();
}

void ModelSequence::AddPage(Thought thought) {
  std::vector<PageOffset>& pages = pages_[Index(thought)];
  pages.push_back(device_->NewPage(formats_.of(thought)));
  if (uneven_) {
    KV_CHECK(thought == Thought::kReasoning);
    uneven_->AddPage();
  }
  for (int i = 0; i < shape_.lanes(); ++i) {
    const size_t blocks = uneven_ ? uneven_->blocks(i).size() : pages.size();
    lanes_[i].classes[Index(thought)].resize(blocks * kSlotsPerPage);
  }
}

ModelSequence::SlotPlace ModelSequence::PlaceOf(Thought thought, size_t slot, int layer,
                                                int head) const {
  const std::vector<PageOffset>& pages = pages_[Index(thought)];
  const size_t block = slot / kSlotsPerPage;
  if (!uneven_) return {pages[block], layer, head};
  const BlockPlace at = uneven_->blocks(layer * shape_.kv_heads + head)[block];
  return {pages[at.page], static_cast<int>(at.place) / shape_.kv_heads,
          static_cast<int>(at.place) % shape_.kv_heads};
}

uint16_t ModelSequence::ReadMask(const std::vector<uint8_t>& pool, Thought thought,
                                 const SlotPlace& at) const {
  const PageLayout layout = MakePageLayout(shape_, formats_.of(thought));
  const uint8_t* const mask = pool.data() + at.page + layout.MaskOffset(at.layer, at.head);
  return static_cast<uint16_t>(mask[0] | mask[1] << 8);
}

ModelSequence::SlotBytes ModelSequence::ReadSlot(const std::vector<uint8_t>& pool, Thought thought,
                                                 size_t slot, int layer, int head) const {
  const PageFormat format = formats_.of(thought);
  const PageLayout layout = MakePageLayout(shape_, format);
  const SlotPlace at = PlaceOf(thought, slot, layer, head);
  const size_t start = at.page + layout.LaneOffset(at.layer, at.head);
  const auto cut = [&](size_t offset, size_t bytes) {
    const auto first = pool.begin() + start + offset + slot % kSlotsPerPage * bytes;
    return std::vector<uint8_t>(first, first + bytes);
  };
  return {.k = cut(0, SlotDataBytes(format.k, shape_.head_dim)),
          .k_scales = cut(layout.k_scales_offset, SlotScaleBytes(format.k, shape_.head_dim)),
          .v = cut(layout.v_data_offset, SlotDataBytes(format.v, shape_.head_dim)),
          .v_scales = cut(layout.v_scales_offset, SlotScaleBytes(format.v, shape_.head_dim))};
}

void ModelSequence::ComparePages() {
  const std::vector<uint8_t> pool = device_->ReadPages();
  for (const Thought thought : kThoughts) {
    const PageLayout layout = MakePageLayout(shape_, formats_.of(thought));
    int live = 0;
    for (int i = 0; i < shape_.lanes(); ++i) {
      const int layer = i / shape_.kv_heads, head = i % shape_.kv_heads;
      const Slots& slots = lane(layer, head).classes[Index(thought)];
      for (size_t s = 0; s < slots.size(); ++s) {
        const size_t in_block = s % kSlotsPerPage;
        const SlotPlace at = PlaceOf(thought, s, layer, head);
        const uint8_t* page = pool.data() + at.page;
        ASSERT_EQ(ReadMask(pool, thought, at) >> in_block & 1, slots[s].has_value() ? 1 : 0)
            << Letter(thought) << " lane " << i << " slot " << s;
        if (!slots[s]) continue;
        ++live;
        const uint8_t* p = page + layout.PositionsOffset(at.layer, at.head) + 4 * in_block;
        ASSERT_EQ(p[0] | p[1] << 8 | p[2] << 16 | uint32_t{p[3]} << 24, slots[s]->position);
        ASSERT_EQ(ReadSlot(pool, thought, s, layer, head), slots[s]->bytes)
            << "a live token's bytes changed: " << Letter(thought) << " lane " << i << " slot "
            << s;
        if (SlotScoreOf(selector_) == SlotScore::kNone) continue;
        float score;
        std::memcpy(&score, page + layout.ScoresOffset(at.layer, at.head) + 4 * in_block, 4);
        ASSERT_NEAR(score, slots[s]->score,
                    device_->adapter().score_tolerance() * (slots[s]->score + 1e-4))
            << Letter(thought) << " lane " << i << " position " << slots[s]->position;
      }
    }
    int marked = 0;  // blocks that are no lane's among them
    for (const PageOffset page : pages_[Index(thought)]) {
      for (int i = 0; i < shape_.lanes(); ++i) {
        const SlotPlace at = {page, i / shape_.kv_heads, i % shape_.kv_heads};
        marked += std::popcount(ReadMask(pool, thought, at));
      }
    }
    ASSERT_EQ(marked, live) << Letter(thought);
  }
}

std::vector<uint32_t> ModelSequence::Positions(Thought thought, int layer, int head) const {
  std::vector<uint32_t> positions;
  for (const auto& slot : lanes_[layer * shape_.kv_heads + head].classes[Index(thought)]) {
    if (slot) positions.push_back(slot->position);
  }
  std::sort(positions.begin(), positions.end());
  return positions;
}

bool ModelSequence::LanesDiffer(Thought thought) const {
  for (int i = 1; i < shape_.lanes(); ++i) {
    const int layer = i / shape_.kv_heads, head = i % shape_.kv_heads;
    if (Positions(thought, layer, head) != Positions(thought, 0, 0)) return true;
  }
  return false;
}

uint32_t ModelSequence::LiveCount(Thought thought) const {
  const std::vector<uint32_t> counts = LiveCounts(thought);
  EXPECT_EQ(std::count(counts.begin(), counts.end(), counts[0]), std::ssize(counts))
      << "lanes differ in their live counts";
  return counts[0];
}

std::vector<uint32_t> ModelSequence::LiveCounts(Thought thought) const {
  std::vector<uint32_t> counts;
  for (const Lane& of : lanes_) {
    const Slots& slots = of.classes[Index(thought)];
    counts.push_back(static_cast<uint32_t>(
        std::count_if(slots.begin(), slots.end(), [](const auto& s) { return s.has_value(); })));
  }
  return counts;
}

bool ModelSequence::HasRoom(Thought thought) const {
  const std::vector<uint32_t> live = LiveCounts(thought);
  for (size_t i = 0; i < lanes_.size(); ++i) {
    if (lanes_[i].classes[Index(thought)].size() < live[i] + open_count_) return false;
  }
  return true;
}

void SealTogether(TestDevice* device, absl::Span<ModelSequence* const> sequences, Thought thought) {
  std::vector<SequenceView> views;
  std::vector<SealOrder> orders;
  for (ModelSequence* sequence : sequences) {
    if (!sequence->uneven_) sequence->LiveCount(thought);  // equal in all lanes
    while (!sequence->HasRoom(thought)) sequence->AddPage(thought);
    orders.push_back({.sequence = static_cast<uint32_t>(views.size()), .thought = thought});
    views.push_back(sequence->View());
  }
  ASSERT_EQ(device->backend().Seal(views, orders), absl::OkStatus());
  for (ModelSequence* sequence : sequences) {
    sequence->SealModel(thought);
    sequence->ComparePages();
  }
}

void ModelSequence::SealModel(Thought thought) {
  for (Lane& of : lanes_) {
    auto slot = of.classes[Index(thought)].begin();
    for (ModelToken& token : of.open) {
      while (slot->has_value()) ++slot;
      const PageFormat format = formats_.of(thought);
      const auto encode = [&](Format f, const std::vector<float>& x, std::vector<uint8_t>* data,
                              std::vector<uint8_t>* scales) {
        data->resize(SlotDataBytes(f, shape_.head_dim));
        scales->resize(SlotScaleBytes(f, shape_.head_dim));
        EncodeSlot(f, x.data(), shape_.head_dim, data->data(), scales->data());
      };
      encode(format.k, token.k, &token.bytes.k, &token.bytes.k_scales);
      encode(format.v, token.v, &token.bytes.v, &token.bytes.v_scales);
      token.stored_k = Decode(format.k, token.bytes.k, token.bytes.k_scales, shape_.head_dim);
      token.stored_v = Decode(format.v, token.bytes.v, token.bytes.v_scales, shape_.head_dim);
      if (SlotScoreOf(selector_) == SlotScore::kValueNorm) {
        token.score = 0;
        for (const double x : token.stored_v) token.score += std::fabs(x);
      }
      *slot = std::move(token);
    }
    of.open.clear();
  }
  open_position_ += open_count_;
  open_count_ = 0;
}

}  // namespace palimpsest
