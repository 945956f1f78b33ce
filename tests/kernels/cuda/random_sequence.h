// SPDX-License-Identifier: Apache-2.0
// A sequence of random tokens on the CUDA and the CPU backend at once, with what real ones come to
// have: pages of three classes in mixed order, partly filled, holes that differ from lane to lane.
#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "tests/kernels/cuda/backend_pair.h"

namespace palimpsest {

// Gaussian numbers as bf16 holds them.
class Bf16Numbers {
 public:
  explicit Bf16Numbers(uint64_t seed) : engine_(seed) {}

  std::vector<float> Next(size_t count, float deviation = 1.0f) {
    std::vector<float> values(count);
    for (float& x : values) x = Bf16ToFloat(FloatToBf16(deviation * normal_(engine_)));
    return values;
  }
  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_;
};

// Hands out the pages of one pool, never to take them back, in no order.
class PageSource {
 public:
  PageSource(const CacheShape& shape, uint64_t pool_bytes) : shape_(shape), left_(pool_bytes) {}

  PageOffset Take(PageFormat format) {
    const uint64_t bytes = MakePageLayout(shape_, format).page_bytes;
    KV_CHECK(bytes <= left_);
    left_ -= bytes;
    return left_ / kPageAlignment * kPageAlignment;
  }

 private:
  const CacheShape shape_;
  uint64_t left_;
};

class RandomSequence {
 public:
  RandomSequence(BackendPair* pair, PageSource* source, const ClassFormats& formats,
                 uint32_t open_group, uint64_t seed)
      : pair_(pair), source_(source), numbers_(seed) {
    view_.formats = formats;
    view_.open_group = open_group;
  }

  SequenceView View() const {
    SequenceView view = view_;
    for (int i = 0; i < kThoughtCount; ++i) view.pages[i] = pages_[i];
    return view;
  }
  const std::vector<PageOffset>& pages(Thought thought) const { return pages_[Index(thought)]; }
  Bf16Numbers& numbers() { return numbers_; }

  // What the slots of the tokens to come carry.
  void CarryScores(SlotScore score) { view_.slot_score = score; }
  // Positions [from, to) are left out: the next token comes at `to`.
  void SkipTo(uint32_t position) { view_.open_position = position - view_.open_count; }
  uint32_t next_position() const { return view_.open_position + view_.open_count; }
  // In each lane, before any anneal.
  uint32_t live_tokens() const { return live_tokens_; }

  // `count` tokens into the open group. `repeat`: every token has the keys of the first.
  void Append(uint32_t count, bool repeat = false) {
    const CacheShape& shape = pair_->shape();
    const SequenceView view = View();
    const StepRows rows{.sequence = 0, .row = 0, .count = count};
    pair_->OnBoth([&](Backend& backend) { return backend.BeginStep({&view, 1}, {&rows, 1}); });
    const size_t width = static_cast<size_t>(shape.kv_heads) * shape.head_dim;
    for (int layer = 0; layer < shape.layers; ++layer) {
      std::vector<float> k = numbers_.Next(count * width);
      if (repeat) k = repeated_keys_.empty() ? k : repeated_keys_;
      if (repeat) {
        for (size_t i = width; i < k.size(); ++i) k[i] = k[i - width];
        repeated_keys_ = k;
      }
      pair_->Append(layer, k, numbers_.Next(count * width));
    }
    view_.open_count += count;
    live_tokens_ += count;
  }

  // A token was appended by somebody else.
  void Commit() {
    ++view_.open_count;
    ++live_tokens_;
  }

  void Seal(Thought thought) {
    Seal(thought, [&](const auto& seal) { pair_->OnBoth(seal); });
  }
  // Where the two do not hold the same any more.
  void SealOnGpu(Thought thought) {
    Seal(thought, [&](const auto& seal) { EXPECT_EQ(seal(pair_->gpu()), absl::OkStatus()); });
  }

  // Groups of up to 16 tokens, sealed into random classes.
  void Grow(int groups) {
    for (int i = 0; i < groups; ++i) {
      Append(static_cast<uint32_t>(1 + numbers_.engine()() % kGroupTokens));
      Seal(kThoughts[numbers_.engine()() % kThoughtCount]);
    }
  }
  // Full groups of one class.
  void GrowClass(Thought thought, int groups) {
    for (int i = 0; i < groups; ++i) {
      Append(kGroupTokens);
      Seal(thought);
    }
  }

  // Eight tokens of every lane die, `times` times: others in each lane. REQUIRES: the first pages
  // of the class are full, and there are enough.
  void MakeHoles(Thought thought, size_t times) {
    const PageLayout layout = MakePageLayout(pair_->shape(), view_.formats.of(thought));
    const size_t full = slots_used_[Index(thought)] / kSlotsPerPage;
    KV_CHECK(2 * full >= times);
    live_tokens_ -= static_cast<uint32_t>(8 * times);
    for (int lane = 0; lane < pair_->shape().lanes(); ++lane) {
      std::vector<size_t> halves(2 * full);
      for (size_t i = 0; i < halves.size(); ++i) halves[i] = i;
      std::shuffle(halves.begin(), halves.end(), numbers_.engine());
      for (size_t i = 0; i < times; ++i) {
        const PageOffset page = pages_[Index(thought)][halves[i] / 2];
        const PageOffset byte = page + layout.masks_offset + 2 * lane + halves[i] % 2;
        pair_->OnBoth([&](Backend& backend) { return backend.Zero(byte, 1); });
      }
    }
  }

  // What both backends hold of this sequence must be the same.
  void ExpectEqualPages() {
    for (const Thought thought : kThoughts) {
      const uint64_t bytes = MakePageLayout(pair_->shape(), view_.formats.of(thought)).page_bytes;
      for (const PageOffset page : pages_[Index(thought)]) pair_->ExpectEqualBytes(page, bytes);
    }
  }

 private:
  template <typename On>
  void Seal(Thought thought, const On& on) {
    auto& pages = pages_[Index(thought)];
    uint32_t& used = slots_used_[Index(thought)];
    while (pages.size() * kSlotsPerPage < used + view_.open_count) {
      pages.push_back(source_->Take(view_.formats.of(thought)));
    }
    used += view_.open_count;
    const SequenceView view = View();
    const SealOrder order{.sequence = 0, .thought = thought};
    on([&](Backend& backend) { return backend.Seal({&view, 1}, {&order, 1}); });
    view_.open_position += view_.open_count;
    view_.open_count = 0;
  }

  BackendPair* const pair_;
  PageSource* const source_;
  Bf16Numbers numbers_;
  SequenceView view_;
  std::array<std::vector<PageOffset>, kThoughtCount> pages_;
  std::array<uint32_t, kThoughtCount> slots_used_{};
  uint32_t live_tokens_ = 0;
  std::vector<float> repeated_keys_;
};

}  // namespace palimpsest
