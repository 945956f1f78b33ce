// SPDX-License-Identifier: Apache-2.0
// Drives a Model as the engine will: feeds sequences group by group and gives their logits back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
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
  virtual ~Chains() = default;

  uint32_t RoomInGroup(uint32_t sequence) const { return 16 - views_[sequence].open_count; }

  // Runs one step and returns the logits of every row, in order of the feeds.
  absl::StatusOr<std::vector<std::vector<float>>> Step(const std::vector<Feed>& feeds,
                                                       LayerObserver* observer = nullptr) {
    const Rows rows(feeds);
    std::vector<uint32_t> wanted(rows.tokens.size());
    std::iota(wanted.begin(), wanted.end(), 0);
    const size_t vocab = model_->config().vocab_size;
    std::vector<float> logits(wanted.size() * vocab);
    const StepBatch batch = {rows.tokens, views_, rows.parts, wanted, observer};
    absl::Status status = model_->Forward(batch, *backend_, absl::MakeSpan(logits));
    if (!status.ok()) return status;
    for (const Feed& feed : feeds) Advance(feed);
    std::vector<std::vector<float>> out;
    for (size_t row = 0; row < wanted.size(); ++row) {
      out.emplace_back(logits.begin() + row * vocab, logits.begin() + (row + 1) * vocab);
    }
    return out;
  }

  // Runs one step and returns the token after the last row of each feed, chosen by samples[i].
  absl::StatusOr<std::vector<int32_t>> Generate(const std::vector<Feed>& feeds,
                                                const std::vector<SampleSpec>& samples) {
    const Rows rows(feeds);
    std::vector<uint32_t> wanted;
    for (const StepRows& part : rows.parts) wanted.push_back(part.row + part.count - 1);
    std::vector<int32_t> chosen(feeds.size());
    const StepBatch batch = {rows.tokens, views_, rows.parts, wanted, nullptr};
    absl::Status status = model_->Generate(batch, *backend_, samples, absl::MakeSpan(chosen));
    if (!status.ok()) return status;
    for (const Feed& feed : feeds) Advance(feed);
    return chosen;
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

 protected:
  // Called when the open group of `sequence` is full, before it is emptied.
  virtual void CloseGroup(uint32_t /*sequence*/) {}

  Backend* backend() const { return backend_; }
  std::vector<SequenceView>& views() { return views_; }

 private:
  // A step's rows, in order of the feeds.
  struct Rows {
    explicit Rows(const std::vector<Feed>& feeds) {
      for (const Feed& feed : feeds) {
        parts.push_back({feed.sequence, static_cast<uint32_t>(tokens.size()),
                         static_cast<uint32_t>(feed.tokens.size())});
        tokens.insert(tokens.end(), feed.tokens.begin(), feed.tokens.end());
      }
    }
    std::vector<int32_t> tokens;
    std::vector<StepRows> parts;
  };

  void Advance(const Feed& feed) {
    SequenceView& view = views_[feed.sequence];
    view.open_count += feed.tokens.size();
    if (view.open_count < 16) return;
    CloseGroup(feed.sequence);
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
