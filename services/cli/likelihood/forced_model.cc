// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/forced_model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace palimpsest::cli {

ForcedModel::ForcedModel(Model* model, ForcedRowSink sink, uint32_t every)
    : ForwardingModel(model), sink_(std::move(sink)), every_(every) {
  KV_CHECK(every > 0);
}

uint64_t ForcedModel::Add(absl::Span<const int32_t> text) {
  texts_.push_back(text);
  return texts_.size() - 1;
}

absl::Status ForcedModel::StartGenerate(const StepBatch& batch, Backend& backend,
                                        absl::Span<const SampleSpec> samples) {
  for (const SampleSpec& sample : samples) {
    const uint64_t chain = sample.params.seed;
    if (chain >= texts_.size() || sample.position >= texts_[chain].size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("no text has a token ", sample.position, " for the seed ", chain));
    }
  }
  KV_RETURN_IF_ERROR(forced_.steps().CheckRoom());
  StepBatch forced = batch;
  forced.tokens = forced_.Resolve(batch.tokens);
  if (!sink_) {
    KV_RETURN_IF_ERROR(model().StartGenerate(forced, backend, samples));
  } else {
    KV_RETURN_IF_ERROR(TellSink(forced, backend, samples));
  }
  const absl::Span<int32_t> tokens = forced_.Start(samples.size());
  for (size_t i = 0; i < samples.size(); ++i) {
    tokens[i] = texts_[samples[i].params.seed][samples[i].position];
  }
  return absl::OkStatus();
}

absl::Status ForcedModel::TellSink(const StepBatch& batch, Backend& backend,
                                   absl::Span<const SampleSpec> samples) {
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
  KV_RETURN_IF_ERROR(model().Forward(wanted, backend, absl::MakeSpan(logits_)));
  return sink_(rows_);
}

absl::Status ForcedModel::AwaitTokens(absl::Span<int32_t> tokens) {
  KV_RETURN_IF_ERROR(forced_.Await(tokens));
  if (sink_) return absl::OkStatus();
  unforced_.resize(tokens.size());
  KV_RETURN_IF_ERROR(model().AwaitTokens(absl::MakeSpan(unforced_)));
  // What is not finite stays so: the chain ends with the engine's error for it.
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (unforced_[i] == kNoToken) tokens[i] = kNoToken;
  }
  return absl::OkStatus();
}

}  // namespace palimpsest::cli
