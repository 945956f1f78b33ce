// SPDX-License-Identifier: Apache-2.0
// What a wrong caller could ask of any Model, refused before anything is appended. All return
// InvalidArgument.
#pragma once

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "services/decode/model/model.h"

namespace palimpsest {

// The batch keeps to the contract of StepBatch and to the model's bounds.
absl::Status CheckStep(const Model& model, const StepBatch& batch);

// The same, and there is room for `logits` floats of result.
absl::Status CheckForward(const Model& model, const StepBatch& batch, size_t logits);

// The same, and there are as many samples, and room for as many tokens, as logit rows.
absl::Status CheckGenerate(const Model& model, const StepBatch& batch, size_t samples,
                           size_t tokens);

}  // namespace palimpsest
