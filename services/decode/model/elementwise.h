// SPDX-License-Identifier: Apache-2.0
// What a transformer layer does between its matrix products, on one row of floats at a time.
// Written as loops the compiler vectorises; together they must stay a small share of a step.
#pragma once

#include <cstddef>

namespace palimpsest {

// out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]. `out` may be `x`.
void RmsNorm(const float* x, const float* weight, float eps, size_t size, float* out);

// x[i] += y[i].
void AddInPlace(const float* y, size_t size, float* x);

// out[i] = silu(gate[i]) * up[i], the SwiGLU gate. Relative error of the sigmoid below 1e-6.
void SwiGlu(const float* gate, const float* up, size_t size, float* out);

}  // namespace palimpsest
