// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/cuda/step_buffers.h"

#include <algorithm>

#include "common/base/status_macros.h"
#include "kernels/cuda/array_packer.h"
#include "services/decode/model/rope.h"

namespace palimpsest::cuda {
namespace {

struct Bf16 {
  uint16_t bits;
};

// Fills the RoPE table, some positions at a time.
absl::Status CopyRope(const ModelConfig& config, float* table, cudaStream_t stream) {
  constexpr int kPositions = 4096;
  const int half = config.head_dim / 2;
  RotaryTable rotary(config.rope, config.head_dim, 1);
  std::vector<float> part(size_t{kPositions} * config.head_dim);
  for (int first = 0; first < config.max_positions; first += kPositions) {
    const int count = std::min(kPositions, config.max_positions - first);
    for (int i = 0; i < count; ++i) {
      rotary.Set(0, first + i);
      for (int pair = 0; pair < half; ++pair) {
        float* at = &part[(static_cast<size_t>(i) * half + pair) * 2];
        at[0] = rotary.cosines(0)[pair];
        at[1] = rotary.sines(0)[pair];
      }
    }
    const size_t size = static_cast<size_t>(count) * config.head_dim;
    KV_RETURN_IF_ERROR(
        ToStatus(cudaMemcpyAsync(table + static_cast<size_t>(first) * config.head_dim, part.data(),
                                 size * sizeof(float), cudaMemcpyHostToDevice, stream),
                 "copy the RoPE table"));
    // The copy may still read `part`.
    KV_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(stream), "copy the RoPE table"));
  }
  return absl::OkStatus();
}

}  // namespace

void StepBuffers::Place(const ModelConfig& c, const StepBufferSizes& sizes, uint8_t* base) {
  ArrayPacker packer;
  const uint64_t rows = sizes.rows_max;
  const auto at = [&](uint64_t offset) { return base == nullptr ? nullptr : base + offset; };
  const auto bf16 = [&](uint64_t columns) { return at(packer.Add<Bf16>(rows * columns)); };
  const auto floats = [&](uint64_t count) {
    return reinterpret_cast<float*>(at(packer.Add<float>(count)));
  };
  residual = floats(rows * c.hidden_size);
  normed = bf16(c.hidden_size);
  qkv = bf16(c.query_size() + 2 * c.kv_size());
  q.clear();
  for (int i = 0; i <= sizes.observed_layers; ++i) q.push_back(bf16(c.query_size()));
  attended = bf16(c.query_size());
  gate_up = bf16(uint64_t{2} * c.intermediate_size);
  gated = bf16(c.intermediate_size);
  constexpr int kVector = 4;  // rows of logits are read in vectors
  logit_stride = (c.vocab_size + kVector - 1) / kVector * kVector;
  logits = floats(static_cast<uint64_t>(sizes.head_rows_max) * logit_stride);
  rope_cos_sin = floats(static_cast<uint64_t>(c.max_positions) * c.head_dim);
  bytes = packer.bytes();
}

uint64_t StepBuffers::BytesFor(const ModelConfig& config, const StepBufferSizes& sizes) {
  StepBuffers buffers;
  buffers.Place(config, sizes, nullptr);
  return buffers.bytes;
}

absl::StatusOr<StepBuffers> StepBuffers::Make(const ModelConfig& config,
                                              const StepBufferSizes& sizes, cudaStream_t stream) {
  StepBuffers out;
  KV_ASSIGN_OR_RETURN(out.memory,
                      AllocateDevice(BytesFor(config, sizes), stream, "the activations"));
  out.Place(config, sizes, out.memory.get());
  KV_RETURN_IF_ERROR(CopyRope(config, out.rope_cos_sin, stream));
  return out;
}

}  // namespace palimpsest::cuda
