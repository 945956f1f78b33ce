// SPDX-License-Identifier: Apache-2.0
#include "services/decode/engine/decode_step.h"

#include "common/base/status_macros.h"

namespace palimpsest {

void DecodeStep::Clear() {
  chains_.clear();
  choosing_.clear();
  views_.clear();
  rows_.clear();
  tokens_.clear();
  logit_rows_.clear();
  samples_.clear();
  refresh_.reset();
}

void DecodeStep::Add(Chain& chain) {
  const uint32_t count = chain.step_tokens();
  const auto row = static_cast<uint32_t>(tokens_.size());
  rows_.push_back({.sequence = static_cast<uint32_t>(views_.size()), .row = row, .count = count});
  views_.push_back(chain.step_view());
  chains_.push_back(&chain);
  if (!chain.prefilling()) {
    tokens_.push_back(chain.next_token);
  } else {
    const auto first = chain.request.prompt.begin() + chain.prompt_done;
    tokens_.insert(tokens_.end(), first, first + count);
    if (chain.prompt_done + count < chain.prompt_tokens()) return;
  }
  logit_rows_.push_back(row + count - 1);
  choosing_.push_back(&chain);
  samples_.push_back(
      {.params = chain.request.sampling, .position = chain.prompt_tokens() + chain.ordered_tokens});
}

absl::Status DecodeStep::Start(Model& model, Backend& backend) {
  refresh_.emplace(&backend, chains_);
  KV_RETURN_IF_ERROR(
      model.StartGenerate({.tokens = tokens_,
                           .sequences = views_,
                           .rows = rows_,
                           .logit_rows = logit_rows_,
                           .observer = refresh_->layers().empty() ? nullptr : &*refresh_},
                          backend, samples_));
  running_ = true;
  for (uint32_t i = 0; i < choosing_.size(); ++i) {
    choosing_[i]->next_token = ChosenBefore(i);
    ++choosing_[i]->ordered_tokens;
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::Span<const int32_t>> DecodeStep::Await(Model& model) {
  running_ = false;
  chosen_.resize(choosing_.size());
  KV_RETURN_IF_ERROR(model.AwaitTokens(absl::MakeSpan(chosen_)));
  return chosen_;
}

void DecodeStep::LeaveOutEnded() {
  for (std::vector<Chain*>* chains : {&chains_, &choosing_}) {
    for (Chain*& chain : *chains) {
      if (chain != nullptr && chain->finish.has_value()) chain = nullptr;
    }
  }
}

}  // namespace palimpsest
