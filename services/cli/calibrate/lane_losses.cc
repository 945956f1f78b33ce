// SPDX-License-Identifier: Apache-2.0
#include "services/cli/calibrate/lane_losses.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/status_macros.h"
#include "kernels/cpu/anticipated_score.h"
#include "kernels/cpu/codec.h"
#include "services/cli/calibrate/lane_shares.h"
#include "services/decode/pool/sequence_cache.h"

namespace palimpsest::cli {
namespace {

constexpr ClassFormats kBf16 = ClassFormats::Uniform({Format::kBf16, Format::kBf16});

// The live tokens of one lane, in no order.
struct LaneContents {
  std::vector<float> keys, values;  // [tokens, head_dim]
  std::vector<uint32_t> positions;
};

// `pages`: bytes of bf16 pages, one after the other.
LaneContents ReadLane(const PageLayout& layout, absl::Span<const uint8_t> pages, int layer,
                      int kv_head) {
  const auto dim = static_cast<size_t>(layout.shape.head_dim);
  std::vector<uint16_t> row(dim);
  const auto append = [&](const uint8_t* from, std::vector<float>* to) {
    std::memcpy(row.data(), from, dim * sizeof(uint16_t));
    std::transform(row.begin(), row.end(), std::back_inserter(*to), Bf16ToFloat);
  };
  LaneContents lane;
  for (size_t at = 0; at < pages.size(); at += layout.page_bytes) {
    const uint8_t* const page = &pages[at];
    const uint8_t* const keys = page + layout.LaneOffset(layer, kv_head);
    uint16_t live = 0;
    std::memcpy(&live, page + layout.MaskOffset(layer, kv_head), sizeof live);
    for (size_t slot = 0; slot < kSlotsPerPage; ++slot) {
      if ((live >> slot & 1) == 0) continue;
      append(keys + slot * dim * sizeof(uint16_t), &lane.keys);
      append(keys + layout.v_data_offset + slot * dim * sizeof(uint16_t), &lane.values);
      uint32_t position = 0;
      std::memcpy(&position, page + layout.PositionsOffset(layer, kv_head) + slot * sizeof position,
                  sizeof position);
      lane.positions.push_back(position);
    }
  }
  return lane;
}

double MeanNorm(absl::Span<const float> values, size_t dim) {
  double sum = 0;
  for (size_t first = 0; first < values.size(); first += dim) {
    double square = 0;
    for (const float x : values.subspan(first, dim)) square += double{x} * x;
    sum += std::sqrt(square);
  }
  return sum / static_cast<double>(values.size() / dim);
}

class LossMeter {
 public:
  LossMeter(const Device& device, PagePool* pool, absl::Span<const LookedAtText> texts,
            const QueryCodebook& codebook, TaskTeam* team, const LossHandler& on_progress)
      : device_(device),
        pool_(pool),
        layout_(pool->layout(kBf16.of(Thought::kReasoning))),
        texts_(texts),
        codebook_(codebook),
        team_(team),
        on_progress_(on_progress),
        losses_(static_cast<size_t>(layout_.shape.lanes())) {
    for (const LookedAtText& text : texts) {
      for (size_t at = 1; at <= text.tokens.size(); ++at) {
        work_ += IsLook(text, at) ? static_cast<double>(1 + at) : 1.0;
      }
    }
  }

  absl::StatusOr<std::vector<double>> Run() {
    for (const LookedAtText& text : texts_) {
      KV_RETURN_IF_ERROR(Read(text));
      ++progress_.texts_done;
    }
    return std::move(losses_);
  }

 private:
  static bool IsLook(const LookedAtText& text, size_t tokens) {
    const bool at_end = tokens == text.tokens.size() && tokens < kLookTokens;
    if (!at_end && tokens % kLookTokens != 0) return false;
    return tokens > text.prompt_tokens + kRankedTokens;
  }

  // A group of tokens a step: the model only reads.
  absl::Status Read(const LookedAtText& text) {
    SequenceCache cache(pool_, device_.backend.get(),
                        {.formats = kBf16, .open_group = 0, .prompt_tokens = text.prompt_tokens});
    const auto tokens = absl::MakeConstSpan(text.tokens);
    for (size_t first = 0; first < tokens.size(); first += kGroupTokens) {
      const auto group = tokens.subspan(first, kGroupTokens);
      const SequenceView view = cache.view();
      const StepRows rows{.count = static_cast<uint32_t>(group.size())};
      KV_RETURN_IF_ERROR(device_.model->Generate(
          {.tokens = group, .sequences = {&view, 1}, .rows = {&rows, 1}, .logit_rows = {}},
          *device_.backend, {}, {}));
      cache.CommitAppend(rows.count);
      KV_RETURN_IF_ERROR(Seal(&cache));
      KV_RETURN_IF_ERROR(Worked(static_cast<double>(group.size())));
      if (IsLook(text, first + group.size())) KV_RETURN_IF_ERROR(Look(text, cache));
    }
    return cache.Release();
  }

  absl::Status Seal(SequenceCache* cache) {
    KV_ASSIGN_OR_RETURN(const SealOrder order, cache->PlanSeal(Thought::kReasoning, 0));
    const SequenceView view = cache->view();
    KV_RETURN_IF_ERROR(device_.backend->Seal({&view, 1}, {&order, 1}));
    cache->CommitSeal(Thought::kReasoning, false);
    return absl::OkStatus();
  }

  absl::Status Look(const LookedAtText& text, const SequenceCache& cache) {
    ++progress_.looks;
    const SequenceView view = cache.view();
    const auto pages = view.pages[Index(cache.PagesOf(Thought::kReasoning))];
    image_.resize(pages.size() * layout_.page_bytes);
    for (size_t i = 0; i < pages.size(); ++i) {
      const auto out = absl::MakeSpan(image_).subspan(i * layout_.page_bytes, layout_.page_bytes);
      KV_RETURN_IF_ERROR(device_.backend->Read(pages[i], out));
    }
    KV_RETURN_IF_ERROR(device_.backend->Synchronize());
    // Lanes are shared out in rounds, between which the caller is heard.
    const int lanes = layout_.shape.lanes();
    const int round = 4 * team_->threads();
    for (int first = 0; first < lanes; first += round) {
      const int count = std::min(round, lanes - first);
      team_->Run(count, [&](int task, int) {
        losses_[first + task] += Loss(first + task, text.prompt_tokens, view.open_position);
      });
      KV_RETURN_IF_ERROR(Worked(static_cast<double>(view.open_position) * count / lanes));
    }
    return absl::OkStatus();
  }

  // `position`: of the token that comes next.
  double Loss(int lane, uint32_t prompt_tokens, uint32_t position) const {
    const CacheShape& shape = layout_.shape;
    const int layer = lane / shape.kv_heads, kv_head = lane % shape.kv_heads;
    const LaneContents contents = ReadLane(layout_, image_, layer, kv_head);
    const double norm = MeanNorm(contents.values, static_cast<size_t>(shape.head_dim));
    if (norm == 0.0) return 0.0;
    const int heads = codebook_.query_heads / shape.kv_heads;
    const std::vector<float> errors = LargestRemovalErrors({.book = codebook_,
                                                            .layer = layer,
                                                            .first_head = kv_head * heads,
                                                            .heads = heads,
                                                            .position = position},
                                                           contents.keys, contents.values);
    std::vector<float> scores;
    for (size_t t = 0; t < errors.size(); ++t) {
      if (contents.positions[t] >= prompt_tokens) scores.push_back(errors[t]);
    }
    return LostScore(std::move(scores)) / norm;
  }

  absl::Status Worked(double tokens) {
    done_ += tokens;
    progress_.share = done_ / work_;
    return on_progress_(progress_);
  }

  const Device& device_;
  PagePool* pool_;
  const PageLayout layout_;
  absl::Span<const LookedAtText> texts_;
  const QueryCodebook& codebook_;
  TaskTeam* team_;
  const LossHandler& on_progress_;
  std::vector<double> losses_;
  std::vector<uint8_t> image_;  // of a text's pages, at a look
  double work_ = 0, done_ = 0;  // in tokens read or scored
  LossProgress progress_;
};

}  // namespace

absl::StatusOr<std::vector<double>> MeasureLaneLosses(const Device& device, PagePool* pool,
                                                      absl::Span<const LookedAtText> texts,
                                                      const QueryCodebook& codebook, TaskTeam* team,
                                                      const LossHandler& on_progress) {
  return LossMeter(device, pool, texts, codebook, team, on_progress).Run();
}

}  // namespace palimpsest::cli
