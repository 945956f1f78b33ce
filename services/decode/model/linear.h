// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b on the CPU by oneDNN, for few rows and fixed weights.
//
// Weights are cut into tiles of output columns, one task each, and packed once into the layout
// oneDNN likes best. Primitives (compiled kernels) exist for every row count up to 64 and in steps
// of 16 beyond; all are made at start, about 0.1 ms each, and shared by layers of the same shape,
// so that no step compiles anything. oneDNN itself runs single-threaded: task_team.h says why.
//
// Owned and called by the engine's thread. This is the only place that touches oneDNN, and the
// only catch of its exceptions.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/task_team.h"
#include "oneapi/dnnl/dnnl.hpp"

namespace palimpsest {

class LinearEngine;

// One weight matrix, packed. Movable; must not outlive its LinearEngine.
class Linear {
 public:
  Linear() = default;
  // Bytes of packed weights and bias.
  uint64_t bytes() const { return bytes_; }

 private:
  friend class LinearEngine;
  // Columns [first, first + width) of the outputs.
  struct Tile {
    int first = 0;
    const std::vector<dnnl::matmul>* primitives = nullptr;  // by bucket, owned by the engine
    dnnl::memory weights;
    dnnl::memory bias;
  };

  int inputs_ = 0;
  int outputs_ = 0;
  int rows_max_ = 0;
  uint64_t bytes_ = 0;
  std::vector<Tile> tiles_;
};

class LinearEngine {
 public:
  // The team shares the tiles of a product. REQUIRES: team is not null.
  static absl::StatusOr<std::unique_ptr<LinearEngine>> New(std::shared_ptr<TaskTeam> team);

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
  struct TileShape {
    int inputs = 0;
    int width = 0;
    int outputs = 0;  // of the whole matrix: the distance between rows of y
    bool has_bias = false;
    int rows_max = 0;
    auto operator<=>(const TileShape&) const = default;
  };
  struct Plan {
    dnnl::memory::desc weights;
    std::vector<dnnl::matmul> primitives;  // by bucket
  };

  explicit LinearEngine(std::shared_ptr<TaskTeam> team);
  dnnl::matmul::primitive_desc Describe(const TileShape& shape, int rows,
                                        const dnnl::memory::desc& weights) const;
  // These three may throw dnnl::error.
  const Plan& PlanFor(const TileShape& shape);
  void PackTile(const TileShape& shape, const float* weights, const float* bias,
                Linear::Tile* tile);
  void RunTile(const Linear& linear, const Linear::Tile& tile, int bucket, const float* x,
               int thread, float* y);

  dnnl::engine engine_;
  std::map<TileShape, Plan> plans_;
  std::vector<dnnl::stream> streams_;              // by thread
  std::vector<std::vector<uint8_t>> scratchpads_;  // by thread; oneDNN's own would be shared
  std::shared_ptr<TaskTeam> team_;
};

}  // namespace palimpsest
