// SPDX-License-Identifier: Apache-2.0
// Models that compute on a GPU: bf16 weights and activations, fp32 sums and residual stream. The
// layers of a step are one captured graph; the host hands in token ids and gets token ids back.
//
// Everything runs in the backend's stream. All device memory is allocated when the model is made,
// and all graphs are captured then, one for each number of rows (row_buckets.h): a step neither
// allocates nor waits, but for its tokens, while the next one may have been ordered.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/log.h"
#include "kernels/cuda/cuda_backend.h"
#include "services/decode/model/model.h"

namespace palimpsest {

struct CudaModelOptions {
  int rows_max = 512;                     // tokens a step may add; at most the backend's
  int logit_rows_max = 64;                // rows a step may want logits or tokens of
  std::vector<int> observed_layers = {};  // whose queries are kept for observers: ascending
  Log* log = nullptr;                     // progress of the start; may be null
};

// What a step is made of, for benchmarks.
enum class StepPart : uint8_t {
  kEmbed,      // embedding, and the first layer's input norm
  kInputNorm,  // of the other layers
  kQkv,
  kAppend,  // q/k norm, RoPE, rotation, into the open group
  kAttend,
  kOutput,  // with the residual sum, as kDown
  kPostNorm,
  kGateUp,
  kSwiGlu,
  kDown,
  kFinalNorm,  // of the logit rows
  kHead,
  kSample,
};
inline constexpr int kStepParts = 13;
absl::string_view Name(StepPart part);

class CudaModel : public Model {
 public:
  // The number of rows that a step of `rows` is computed with.
  virtual int PaddedRows(int rows) const = 0;

  // Enqueues one part of one layer for `rows` rows (from kFinalNorm on: logit rows, at most
  // head_rows_max), outside any graph and on whatever the buffers hold; `layer` is not used by
  // parts that have none. kAppend and kAttend want a begun step.
  virtual absl::Status Enqueue(StepPart part, int layer, int rows) = 0;
  virtual int head_rows_max() const = 0;

  // Bytes of activations, tables and staging, beside weight_bytes().
  virtual uint64_t working_bytes() const = 0;
};

// Loads a Hugging Face folder (config.json, safetensors). NotFound or InvalidArgument names the
// file, key, tensor or setting at fault, ResourceExhausted what was asked for and what there is.
// The backend must outlive the model, and be made for its shape.
absl::StatusOr<std::unique_ptr<CudaModel>> NewCudaModel(const std::string& folder,
                                                        const CudaModelOptions& options,
                                                        CudaBackend* backend);

// A model of the given shape with random weights: for performance work only. What it says means
// nothing. The weights are NewSyntheticCpuModel's of the same seed, rounded to bf16.
absl::StatusOr<std::unique_ptr<CudaModel>> NewSyntheticCudaModel(const ModelConfig& config,
                                                                 uint64_t seed,
                                                                 const CudaModelOptions& options,
                                                                 CudaBackend* backend);

}  // namespace palimpsest
