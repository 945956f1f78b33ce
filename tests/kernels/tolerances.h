// SPDX-License-Identifier: Apache-2.0
// Every error bound of the kernels' tests, with where it comes from.
#pragma once

#include "common/base/format.h"

namespace palimpsest {

// Kernel error: largest difference to fp64 attention over the *same, de-quantised* tokens, as a
// share of the largest |V|. It is the arithmetic's alone. fp32 has 2^-24 = 6e-8 a rounding; logits
// of size 20 carry some 20 * 64 terms' worth into the exponent, and exp itself is good to 2 ulp.
// Seen at most 1.3e-6 (head_dim 128, 4096 tokens).
inline constexpr double kCpuKernelError = 5e-6;

// A backend with bf16 activations rounds its output once more: 2^-9 of a value at most as large as
// the largest |V|, and bf16 probabilities inside tensor-core products cost about as much again.
inline constexpr double kBf16KernelError = 1.0 / 128;

// Scores of tokens, and which of them a selector keeps: as a share of the score, against fp64 over
// the same queries and keys. Sums of probabilities, each with the error of an fp32 exponential of a
// logit of size 20 (see above).
inline constexpr double kScoreError = 1e-4;
// Probabilities that pass through bf16 on their way to a slot's score: 2^-9 each.
inline constexpr double kBf16ScoreError = 1.0 / 128;
// A query of a codebook is rounded to bf16 after its turn. Cosines that differ in their last bit
// sometimes make that round the other way: 2^-8 of one channel, 0.004 in a logit at the most. And
// a backend may round outputs to bf16 before it takes distances from them.
inline constexpr double kAnticipatedScoreError = 1e-2;

// Format error: |out - exact| / |exact| (Euclidean, over all queries) where `exact` attends to the
// fp32 tokens before any rounding. Realistic tokens: attention_error_test.cc. K and V both in the
// format. Seen there (head_dim 64 / 128; K alone, V alone at 64):
//   bf16    0.0027 / 0.0021   (0.0027, 0.0027)     fp8      0.038 / 0.036   (0.021, 0.031)
//   nvfp4   0.142  / 0.133    (0.105,  0.096)      ternary  0.50  / 0.52    (0.37,  0.39)
//   int4    0.144  / 0.176    (0.109,  0.083)
// Bounds are about 1.25 times the larger one.
constexpr double FormatError(Format format) {
  switch (format) {
    case Format::kBf16:
      return 0.0035;
    case Format::kFp8:
      return 0.048;
    case Format::kNvfp4:
      return 0.18;
    case Format::kTernary:
      return 0.65;
    case Format::kInt4:
      return 0.22;
  }
  return 0.0;
}

}  // namespace palimpsest
