// SPDX-License-Identifier: Apache-2.0
// What a wrong caller could ask of any Model, refused before anything is appended. All return
// InvalidArgument, unless it says otherwise.
#pragma once

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "services/decode/model/model.h"
#include "services/decode/model/started_steps.h"

namespace palimpsest {

// The batch keeps to the contract of StepBatch and to the model's bounds. `chosen_before`: tokens
// that ChosenBefore may name.
absl::Status CheckStep(const Model& model, const StepBatch& batch, size_t chosen_before);

// The same, and there is room for `logits` floats of result.
absl::Status CheckForward(const Model& model, const StepBatch& batch, size_t logits);

// What StartGenerate takes: as many samples as logit rows. FailedPrecondition where too many of
// `steps` are still to be awaited.
absl::Status CheckStart(const Model& model, const StepBatch& batch, size_t samples,
                        const StartedSteps& steps);

}  // namespace palimpsest
