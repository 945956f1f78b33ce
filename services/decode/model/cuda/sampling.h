// SPDX-License-Identifier: Apache-2.0
// The next tokens from logits that lie on the device: what services/decode/model/sampler.h defines,
// one CTA a row, in one launch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace palimpsest::cuda {

// SamplingParams of one row, with the random number of its (seed, position) already drawn.
struct SampleRow {
  double uniform = 0.0;      // CounterUniform(seed, position)
  float temperature = 0.0f;  // 0: greedy
  int32_t top_k = 0;         // 0: all
  float top_p = 1.0f;
  float min_p = 0.0f;
};

struct LogitRows {
  const float* logits = nullptr;  // [rows, stride], 16-byte aligned
  uint32_t stride = 0;            // floats from row to row, a multiple of 4
  uint32_t vocab = 0;             // at most 2^22
};

// Where tokens go, each twice: [rows].
struct TokenSinks {
  int32_t* device = nullptr;  // for the step to come
  int32_t* host = nullptr;    // pinned
};

// tokens[i] for row i. Where a logit is NaN or the largest is not finite: `invalid_token`.
//
// The same token as SampleToken's on the same logits, ties and filters included, but for the
// arithmetic of the probabilities: they are rounded to 2^-40 of the likeliest's and have a relative
// error of some 2e-6, where SampleToken computes in double. So a draw, or the end of the top-p
// prefix, can move to the neighbour in order of likelihood where it lies within about 1e-6 of the
// border between two tokens. Sums are of integers: the result does not depend on timing.
cudaError_t SampleTokens(const LogitRows& logits, const SampleRow* rows, uint32_t row_count,
                         int32_t invalid_token, const TokenSinks& tokens, cudaStream_t stream);

}  // namespace palimpsest::cuda
