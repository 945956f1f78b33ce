// SPDX-License-Identifier: Apache-2.0
// The seam between the decode engine and a transformer: rows of new tokens in, the next tokens or
// their logits out.
//
// A model owns its weights and its activations, and nothing of a sequence: keys and values go to
// the Backend through the SequenceViews, so that the same model runs over any page policy. A model
// on a device samples there too, and only token ids cross the bus. Calls are made from the engine's
// one thread.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/status_macros.h"
#include "kernels/backend.h"
#include "services/decode/model/model_config.h"
#include "services/decode/model/sampler.h"

namespace palimpsest {

// Looks at some layers after their attention: measures sparsity.
class LayerObserver {
 public:
  virtual ~LayerObserver() = default;

  // The layers to look at, ascending; Model::may_observe holds for each. The same until the step
  // has ended.
  virtual absl::Span<const int> layers() const = 0;

  // Called for each of these layers, in order, at some time between the layer's attention and the
  // step's end: pages and open groups are as the layer's Attend saw them, and the step is still the
  // backend's current one. `io` has q, as Attend was given it, and scale; out is null.
  virtual absl::Status AfterAttend(int layer, const LayerActivations& io) = 0;
};

// One step of a batch. Each sequence adds 1 to 16 tokens that fit its open group, so a prefill
// step ends where the group does. The position of a sequence's i-th new token is
// open_position + open_count + i. The caller raises open_count after the step.
struct StepBatch {
  absl::Span<const int32_t> tokens;  // [rows]: ids, or ChosenBefore
  absl::Span<const SequenceView> sequences;
  absl::Span<const StepRows> rows;        // at most one per sequence; they tile [0, rows)
  absl::Span<const uint32_t> logit_rows;  // rows whose logits are wanted, in this order
  LayerObserver* observer = nullptr;      // may be null
};

// How the token after a logit row is chosen: what SampleToken takes.
struct SampleSpec {
  SamplingParams params;  // pass CheckSamplingParams
  uint32_t position = 0;  // tokens before the one to choose
};

inline constexpr int32_t kNoToken = -1;

// In StepBatch::tokens, for StartGenerate alone: whatever token the StartGenerate before it chooses
// for samples[i], so that a step can be ordered before anybody has seen that token. Token 0 where
// it is kNoToken.
constexpr int32_t ChosenBefore(uint32_t i) { return -2 - static_cast<int32_t>(i); }

// How many steps may have been started and not yet awaited.
inline constexpr size_t kStepsAhead = 2;

class Model {
 public:
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;

  // Bounds of one step, fixed when the model was made.
  virtual int rows_max() const = 0;
  virtual int logit_rows_max() const = 0;
  // May a step's observer ask for this layer? A model on a device keeps the queries of the layers
  // it was made to keep.
  virtual bool may_observe(int layer) const = 0;

  // Bytes of weights as they are held.
  virtual uint64_t weight_bytes() const = 0;

  // Runs every layer: begins a step of `backend`, appends K and V, attends, and writes the logits
  // of `logit_rows` to `logits` [logit_rows, vocab_size], in host memory and valid on return.
  // `backend` is the one the model was made for, or wraps it. InvalidArgument for a batch that
  // breaks the contract above (nothing has been appended then); the backend's or the observer's
  // status when they fail (the sequences' open groups are then undefined from open_count on).
  virtual absl::Status Forward(const StepBatch& batch, Backend& backend,
                               absl::Span<float> logits) = 0;

  // The same, but chooses the tokens itself, and a model on a device has only ordered all of it on
  // return: what is asked of `backend` afterwards comes after this step. FailedPrecondition where
  // kStepsAhead steps are still to be awaited.
  virtual absl::Status StartGenerate(const StepBatch& batch, Backend& backend,
                                     absl::Span<const SampleSpec> samples) = 0;

  // Waits for the oldest step that has been started and not yet awaited, and no longer than for
  // that: tokens[i] is what samples[i] makes of the logits of logit_rows[i], or kNoToken where
  // SampleToken would say that they are not finite. A model on a device may round probabilities
  // otherwise than SampleToken does. Returns what has gone wrong on the device, as Synchronize
  // does. InvalidArgument, with nothing taken, for another number of tokens than was started.
  virtual absl::Status AwaitTokens(absl::Span<int32_t> tokens) = 0;

  // Both. REQUIRES: no step is to be awaited.
  absl::Status Generate(const StepBatch& batch, Backend& backend,
                        absl::Span<const SampleSpec> samples, absl::Span<int32_t> tokens) {
    if (tokens.size() != samples.size()) {
      return absl::InvalidArgumentError("step: as many samples are wanted as there is room for");
    }
    KV_RETURN_IF_ERROR(StartGenerate(batch, backend, samples));
    return AwaitTokens(tokens);
  }
};

}  // namespace palimpsest
