// SPDX-License-Identifier: Apache-2.0
// Drives a Model as the engine will: feeds sequences group by group and gives their logits back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/base/check.h"
#include "services/decode/model/model.h"

namespace palimpsest {

// One step's share of one sequence.
struct Feed {
  uint32_t sequence = 0;
  std::vector<int32_t> tokens;  // at most what is left of the open group
};

class Chains {
 public:
  Chains(Model* model, Backend* backend, uint32_t sequences)
      : model_(model), backend_(backend), views_(sequences) {
    for (uint32_t i = 0; i < sequences; ++i) views_[i].open_group = i;
  }

  uint32_t RoomInGroup(uint32_t sequence) const { return 16 - views_[sequence].open_count; }

  // Runs one step and returns the logits of every row, in order of the feeds.
  absl::StatusOr<std::vector<std::vector<float>>> Step(const std::vector<Feed>& feeds) {
    std::vector<int32_t> tokens;
    std::vector<StepRows> rows;
    std::vector<uint32_t> wanted;
    for (const Feed& feed : feeds) {
      rows.push_back({feed.sequence, static_cast<uint32_t>(tokens.size()),
                      static_cast<uint32_t>(feed.tokens.size())});
      tokens.insert(tokens.end(), feed.tokens.begin(), feed.tokens.end());
    }
    for (uint32_t row = 0; row < tokens.size(); ++row) wanted.push_back(row);
    const size_t vocab = model_->config().vocab_size;
    std::vector<float> logits(tokens.size() * vocab);
    const StepBatch batch = {tokens, views_, rows, wanted, nullptr};
    absl::Status status = model_->Forward(batch, *backend_, absl::MakeSpan(logits));
    if (!status.ok()) return status;
    for (const Feed& feed : feeds) Advance(feed);
    std::vector<std::vector<float>> out;
    for (size_t row = 0; row < tokens.size(); ++row) {
      out.emplace_back(logits.begin() + row * vocab, logits.begin() + (row + 1) * vocab);
    }
    return out;
  }

  // Feeds a whole text to one sequence, `step_tokens` at a time and never across a group's end.
  std::vector<std::vector<float>> FeedAll(uint32_t sequence, const std::vector<int32_t>& tokens,
                                          uint32_t step_tokens) {
    std::vector<std::vector<float>> out;
    for (size_t done = 0; done < tokens.size();) {
      const size_t count =
          std::min<size_t>({step_tokens, RoomInGroup(sequence), tokens.size() - done});
      auto logits = Step({{sequence, {tokens.begin() + done, tokens.begin() + done + count}}});
      KV_CHECK(logits.ok());
      for (auto& row : *logits) out.push_back(std::move(row));
      done += count;
    }
    return out;
  }

 private:
  void Advance(const Feed& feed) {
    SequenceView& view = views_[feed.sequence];
    view.open_count += feed.tokens.size();
    if (view.open_count < 16) return;
    view.open_position += 16;
    view.open_count = 0;
  }

  Model* const model_;
  Backend* const backend_;
  std::vector<SequenceView> views_;
};

inline int32_t Greedy(const std::vector<float>& logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace palimpsest
