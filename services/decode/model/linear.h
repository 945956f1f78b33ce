// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b on the CPU by oneDNN, for few rows and fixed weights.
//
// Weights are packed once into the layout oneDNN likes best. Primitives (compiled kernels) exist
// for every row count up to 64 and in steps of 16 beyond; all are made at start, about 0.1 ms
// each, and shared by layers of the same shape, so that no step compiles anything.
//
// Owned and called by the engine's thread; oneDNN fans out to its OpenMP team inside Apply.
// This is the only place that touches oneDNN, and the only catch of its exceptions.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "oneapi/dnnl/dnnl.hpp"

namespace palimpsest {

struct LinearShape {
  int inputs = 0;
  int outputs = 0;
  bool has_bias = false;
  int rows_max = 0;
  auto operator<=>(const LinearShape&) const = default;
};

class LinearEngine;

// One weight matrix, packed. Movable; must not outlive its LinearEngine.
class Linear {
 public:
  Linear() = default;
  const LinearShape& shape() const { return shape_; }
  // Bytes of packed weights and bias.
  uint64_t bytes() const { return bytes_; }

 private:
  friend class LinearEngine;
  LinearShape shape_;
  uint64_t bytes_ = 0;
  const std::vector<dnnl::matmul>* primitives_ = nullptr;  // by bucket, owned by the engine
  dnnl::memory weights_;
  dnnl::memory bias_;
};

class LinearEngine {
 public:
  // `threads` is the size of the OpenMP team Apply uses. REQUIRES: threads >= 1.
  static absl::StatusOr<std::unique_ptr<LinearEngine>> New(int threads);

  // Rows a buffer must have room for when Apply is given `rows` rows: what lies in the extra rows
  // of x does not matter, and the extra rows of y are overwritten.
  static int PaddedRows(int rows);

  // Packs `weights` [outputs, inputs] and `bias` [outputs] (empty for none), which may be freed
  // afterwards. Internal when oneDNN refuses.
  absl::StatusOr<Linear> Pack(int inputs, int outputs, int rows_max,
                              absl::Span<const float> weights, absl::Span<const float> bias);

  // y [rows, outputs] = x [rows, inputs] W^T + b. Both buffers hold PaddedRows(rows) rows.
  // REQUIRES: 1 <= rows <= rows_max of the Linear.
  absl::Status Apply(const Linear& linear, const float* x, int rows, float* y);

 private:
  struct Plan {
    dnnl::memory::desc weights;
    std::vector<dnnl::matmul> primitives;  // by bucket
  };

  explicit LinearEngine(int threads);
  void UseThreads() const;
  const Plan& PlanFor(const LinearShape& shape);  // may throw dnnl::error

  const int threads_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  std::map<LinearShape, Plan> plans_;
};

}  // namespace palimpsest
