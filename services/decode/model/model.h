// SPDX-License-Identifier: Apache-2.0
// The seam between the decode engine and a transformer: rows of new tokens in, logits out.
//
// A model owns its weights and its activations, and nothing of a sequence: keys and values go to
// the Backend through the SequenceViews, so that the same model runs over any page policy. Calls
// are made from the engine's one thread.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "services/decode/model/model_config.h"

namespace palimpsest {

// Looks at a layer after its attention: measures sparsity, records queries. `io.q` is what Attend
// was given ([rows, query_heads, head_dim], after RoPE); k and v are what Append was given.
class LayerObserver {
 public:
  virtual ~LayerObserver() = default;
  virtual absl::Status AfterAttend(int layer, const LayerActivations& io) = 0;
};

// One step of a batch. Each sequence adds 1 to 16 tokens that fit its open group, so a prefill
// step ends where the group does. The position of a sequence's i-th new token is
// open_position + open_count + i. The caller raises open_count after Forward.
struct StepBatch {
  absl::Span<const int32_t> tokens;  // [rows]
  absl::Span<const SequenceView> sequences;
  absl::Span<const StepRows> rows;        // at most one per sequence; they tile [0, rows)
  absl::Span<const uint32_t> logit_rows;  // rows whose logits are wanted, in this order
  LayerObserver* observer = nullptr;      // may be null
};

class Model {
 public:
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;

  // Bounds of one step, fixed when the model was made.
  virtual int rows_max() const = 0;
  virtual int logit_rows_max() const = 0;

  // Bytes of weights as they are held.
  virtual uint64_t weight_bytes() const = 0;

  // Runs every layer: appends K and V through `backend`, attends, and writes the logits of
  // `logit_rows` to `logits` [logit_rows, vocab_size]. InvalidArgument for a batch that breaks the
  // contract above (nothing has been appended then); the backend's status when it fails (the
  // sequences' open groups are then undefined from open_count on).
  virtual absl::Status Forward(const StepBatch& batch, Backend& backend,
                               absl::Span<float> logits) = 0;
};

}  // namespace palimpsest
