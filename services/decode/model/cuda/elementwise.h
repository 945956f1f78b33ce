// SPDX-License-Identifier: Apache-2.0
// What a transformer layer does between its matrix products, for all rows of a step at once. Rows
// are contiguous; bf16 unless said otherwise. All pointers are multiples of 16 bytes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace palimpsest::cuda {

// True for the hidden sizes these kernels serve: multiples of 8 up to 16,384.
bool ElementwiseSupports(int hidden);

struct RmsNormWeight {
  const void* weight = nullptr;  // [hidden]
  float eps = 0.0f;
  int hidden = 0;
};

// The token of a row: ids[row], or where that is -2 - i (ChosenBefore of model.h) chosen[i], or
// token 0 where that is none.
struct TokenSource {
  const int32_t* ids = nullptr;
  const int32_t* chosen = nullptr;
};

// residual[i] = embedding[the token of row i] in fp32, and normed[i] its norm. REQUIRES: tokens are
// valid.
cudaError_t Embed(const TokenSource& tokens, const void* embedding, const RmsNormWeight& norm,
                  float* residual, void* normed, uint32_t rows, cudaStream_t stream);

// normed[i] = RMSNorm(residual[i]), computed in fp32 and rounded once.
cudaError_t RmsNorm(const float* residual, const RmsNormWeight& norm, void* normed, uint32_t rows,
                    cudaStream_t stream);

// normed[i] = RMSNorm(residual[source[i]]).
cudaError_t GatherRmsNorm(const float* residual, const uint32_t* source, const RmsNormWeight& norm,
                          void* normed, uint32_t rows, cudaStream_t stream);

// gated[i][c] = silu(gate_up[i][c]) * gate_up[i][size + c]. REQUIRES: size is a multiple of 8.
cudaError_t SwiGlu(const void* gate_up, int size, void* gated, uint32_t rows, cudaStream_t stream);

}  // namespace palimpsest::cuda
