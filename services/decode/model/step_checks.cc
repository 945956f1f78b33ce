// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/step_checks.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace palimpsest {
namespace {

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("step: ", parts...));
}

absl::Status CheckRows(const ModelConfig& config, const StepBatch& batch) {
  size_t next = 0;
  for (const StepRows& part : batch.rows) {
    if (part.row != next || part.count == 0 || part.sequence >= batch.sequences.size()) {
      return Bad("rows do not tile the batch");
    }
    const SequenceView& view = batch.sequences[part.sequence];
    if (view.open_count + uint64_t{part.count} > static_cast<uint64_t>(kGroupTokens)) {
      return Bad(part.count, " new tokens do not fit an open group of ", view.open_count);
    }
    const uint64_t end = uint64_t{view.open_position} + view.open_count + part.count;
    if (end > static_cast<uint64_t>(config.max_positions)) {
      return Bad("position ", end - 1, ", the model has ", config.max_positions);
    }
    next += part.count;
  }
  if (next != batch.tokens.size()) return Bad("rows do not tile the batch");
  return absl::OkStatus();
}

absl::Status CheckObserver(const Model& model, const LayerObserver& observer) {
  int least = 0;
  for (const int layer : observer.layers()) {
    if (layer < least || !model.may_observe(layer)) {
      return Bad("layer ", layer, " cannot be observed, or not in this order");
    }
    least = layer + 1;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckStep(const Model& model, const StepBatch& batch, size_t chosen_before) {
  const ModelConfig& config = model.config();
  const size_t rows = batch.tokens.size();
  if (rows == 0 || rows > static_cast<size_t>(model.rows_max())) {
    return Bad(rows, " rows, allowed 1 to ", model.rows_max());
  }
  KV_RETURN_IF_ERROR(CheckRows(config, batch));
  const int32_t least = chosen_before == 0 ? 0 : ChosenBefore(chosen_before - 1);
  for (const int32_t token : batch.tokens) {
    if (token < least || token == kNoToken || token >= config.vocab_size) {
      return Bad("token ", token, ", the vocabulary has ", config.vocab_size);
    }
  }
  if (batch.logit_rows.size() > static_cast<size_t>(model.logit_rows_max())) {
    return Bad(batch.logit_rows.size(), " logit rows, allowed ", model.logit_rows_max());
  }
  for (const uint32_t row : batch.logit_rows) {
    if (row >= rows) return Bad("logit row ", row, " of ", rows);
  }
  if (batch.observer == nullptr) return absl::OkStatus();
  return CheckObserver(model, *batch.observer);
}

absl::Status CheckForward(const Model& model, const StepBatch& batch, size_t logits) {
  KV_RETURN_IF_ERROR(CheckStep(model, batch, /*chosen_before=*/0));
  const size_t wanted = batch.logit_rows.size();
  if (logits == wanted * static_cast<size_t>(model.config().vocab_size)) return absl::OkStatus();
  return Bad(wanted, " logit rows into ", logits, " floats");
}

absl::Status CheckStart(const Model& model, const StepBatch& batch, size_t samples,
                        const StartedSteps& steps) {
  KV_RETURN_IF_ERROR(CheckStep(model, batch, steps.last_count()));
  const size_t wanted = batch.logit_rows.size();
  if (samples != wanted) return Bad(wanted, " logit rows with ", samples, " samples");
  return steps.CheckRoom();
}

}  // namespace palimpsest
