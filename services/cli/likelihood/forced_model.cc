// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/forced_model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace palimpsest::cli {

ForcedModel::ForcedModel(Model* model, ForcedRowSink sink, uint32_t every)
    : model_(model), sink_(std::move(sink)), every_(every) {
  KV_CHECK(every > 0);
}

uint64_t ForcedModel::Add(absl::Span<const int32_t> text) {
  texts_.push_back(text);
  return texts_.size() - 1;
}

absl::Status ForcedModel::Forward(const StepBatch& batch, Backend& backend,
                                  absl::Span<float> logits) {
  return model_->Forward(batch, backend, logits);
}

absl::Status ForcedModel::Generate(const StepBatch& batch, Backend& backend,
                                   absl::Span<const SampleSpec> samples,
                                   absl::Span<int32_t> tokens) {
  for (const SampleSpec& sample : samples) {
    const uint64_t chain = sample.params.seed;
    if (chain >= texts_.size() || sample.position >= texts_[chain].size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("no text has a token ", sample.position, " for the seed ", chain));
    }
  }
  if (!sink_) {
    KV_RETURN_IF_ERROR(model_->Generate(batch, backend, samples, tokens));
  } else {
    rows_.clear();
    logit_rows_.clear();
    for (size_t i = 0; i < samples.size(); ++i) {
      const uint64_t chain = samples[i].params.seed;
      const uint32_t position = samples[i].position;
      if (position % every_ != 0) continue;
      logit_rows_.push_back(batch.logit_rows[i]);
      rows_.push_back({.chain = chain, .position = position, .target = texts_[chain][position]});
    }
    const auto size = static_cast<size_t>(config().vocab_size);
    logits_.resize(rows_.size() * size);
    for (size_t i = 0; i < rows_.size(); ++i) {
      rows_[i].logits = absl::MakeConstSpan(logits_).subspan(i * size, size);
    }
    StepBatch wanted = batch;
    wanted.logit_rows = logit_rows_;
    KV_RETURN_IF_ERROR(model_->Forward(wanted, backend, absl::MakeSpan(logits_)));
    KV_RETURN_IF_ERROR(sink_(rows_));
  }
  for (size_t i = 0; i < samples.size(); ++i) {
    // What is not finite stays so: the chain ends with the engine's error for it.
    if (!sink_ && tokens[i] == kNoToken) continue;
    tokens[i] = texts_[samples[i].params.seed][samples[i].position];
  }
  return absl::OkStatus();
}

}  // namespace palimpsest::cli
