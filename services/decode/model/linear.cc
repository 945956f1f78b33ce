// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/linear.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace palimpsest {
namespace {

using Memory = dnnl::memory;
constexpr auto kFloat = Memory::data_type::f32;

constexpr int kExactRows = 64;      // one primitive for each row count up to here
constexpr int kRowStep = 16;        // and one for each multiple of this beyond
constexpr int kLayoutRows = 16;     // the row count whose favourite weight layout all others use
constexpr int kColumnStep = 64;     // oneDNN's column block; tiles are whole blocks
constexpr int kTilesPerThread = 2;  // so that a thread that comes late still finds a share

// Fewer multiplications than this take about as long as calling a helper does (10 us).
constexpr int64_t kSharedProductsMin = 1 << 19;

int BucketOf(int rows) {
  return rows <= kExactRows ? rows - 1
                            : kExactRows - 1 + (rows - kExactRows + kRowStep - 1) / kRowStep;
}

int RowsOfBucket(int bucket) {
  return bucket < kExactRows ? bucket + 1 : kExactRows + (bucket - kExactRows + 1) * kRowStep;
}

Memory::desc Matrix(int rows, int columns, int row_stride) {
  return Memory::desc({rows, columns}, kFloat, Memory::dims{row_stride, 1});
}

int TileWidth(int outputs, int threads) {
  if (threads == 1) return outputs;
  const int tiles = threads * kTilesPerThread;
  const int width = (outputs + tiles - 1) / tiles;
  return (width + kColumnStep - 1) / kColumnStep * kColumnStep;
}

absl::Status ToStatus(const char* what) {
  return absl::InternalError(absl::StrCat("oneDNN: ", what));
}

}  // namespace

LinearEngine::LinearEngine(std::shared_ptr<TaskTeam> team)
    : engine_(dnnl::engine::kind::cpu, 0), scratchpads_(team->threads()), team_(std::move(team)) {
  for (int thread = 0; thread < team_->threads(); ++thread) streams_.emplace_back(engine_);
}

absl::StatusOr<std::unique_ptr<LinearEngine>> LinearEngine::New(std::shared_ptr<TaskTeam> team) {
  KV_CHECK(team != nullptr);
  try {
    return std::unique_ptr<LinearEngine>(new LinearEngine(std::move(team)));
  } catch (const dnnl::error& error) {
    return ToStatus(error.what());
  }
}

int LinearEngine::PaddedRows(int rows) { return RowsOfBucket(BucketOf(rows)); }

dnnl::matmul::primitive_desc LinearEngine::Describe(const TileShape& shape, int rows,
                                                    const Memory::desc& weights) const {
  const Memory::desc x = Matrix(rows, shape.inputs, shape.inputs);
  const Memory::desc y = Matrix(rows, shape.width, shape.outputs);
  const Memory::desc bias = Matrix(1, shape.width, shape.width);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return dnnl::matmul::primitive_desc(
      shape.has_bias ? dnnl::matmul::desc(x, weights, bias, y) : dnnl::matmul::desc(x, weights, y),
      attributes, engine_);
}

const LinearEngine::Plan& LinearEngine::PlanFor(const TileShape& shape) {
  const auto found = plans_.find(shape);
  if (found != plans_.end()) return found->second;
  const Memory::desc any({shape.inputs, shape.width}, kFloat, Memory::format_tag::any);
  Plan plan;
  plan.weights = Describe(shape, kLayoutRows, any).weights_desc();
  size_t scratchpad_bytes = 0;
  for (int bucket = 0; bucket <= BucketOf(shape.rows_max); ++bucket) {
    const auto described = Describe(shape, RowsOfBucket(bucket), plan.weights);
    scratchpad_bytes = std::max(scratchpad_bytes, described.scratchpad_desc().get_size());
    plan.primitives.emplace_back(described);
  }
  for (std::vector<uint8_t>& scratchpad : scratchpads_) {
    if (scratchpad.size() < scratchpad_bytes) scratchpad.resize(scratchpad_bytes);
  }
  return plans_.emplace(shape, std::move(plan)).first->second;
}

void LinearEngine::PackTile(const TileShape& shape, const float* weights, const float* bias,
                            Linear::Tile* tile) {
  const Plan& plan = PlanFor(shape);
  tile->primitives = &plan.primitives;
  // [width, inputs] row-major is oneDNN's {inputs, width} matrix with tag `ba`. The source is only
  // read; oneDNN has no const memory.
  Memory source({{shape.inputs, shape.width}, kFloat, Memory::format_tag::ba}, engine_,
                const_cast<float*>(weights));
  tile->weights = Memory(plan.weights, engine_);
  dnnl::reorder(source, tile->weights).execute(streams_[0], source, tile->weights);
  streams_[0].wait();
  if (!shape.has_bias) return;
  tile->bias = Memory(Matrix(1, shape.width, shape.width), engine_);
  std::memcpy(tile->bias.get_data_handle(), bias, shape.width * sizeof(float));
}

absl::StatusOr<Linear> LinearEngine::Pack(int inputs, int outputs, int rows_max,
                                          absl::Span<const float> weights,
                                          absl::Span<const float> bias) {
  KV_CHECK(weights.size() == static_cast<size_t>(inputs) * outputs);
  KV_CHECK(bias.empty() || bias.size() == static_cast<size_t>(outputs));
  KV_CHECK(rows_max >= 1);
  // Primitives remember the team they were made under; it must be the one they run with.
  omp_set_num_threads(1);
  Linear linear;
  linear.inputs_ = inputs;
  linear.outputs_ = outputs;
  linear.rows_max_ = rows_max;
  const int tile_width = TileWidth(outputs, team_->threads());
  try {
    for (int first = 0; first < outputs; first += tile_width) {
      const TileShape shape = {.inputs = inputs,
                               .width = std::min(tile_width, outputs - first),
                               .outputs = outputs,
                               .has_bias = !bias.empty(),
                               .rows_max = rows_max};
      Linear::Tile& tile = linear.tiles_.emplace_back();
      tile.first = first;
      PackTile(shape, weights.data() + static_cast<size_t>(first) * inputs, bias.data() + first,
               &tile);
      linear.bytes_ += tile.weights.get_desc().get_size();
    }
  } catch (const dnnl::error& error) {
    return ToStatus(error.what());
  }
  linear.bytes_ += bias.size() * sizeof(float);
  return linear;
}

void LinearEngine::RunTile(const Linear& linear, const Linear::Tile& tile, int bucket,
                           const float* x, int thread, float* y) {
  const int rows = RowsOfBucket(bucket);
  const int width = static_cast<int>(tile.weights.get_desc().dims()[1]);
  std::unordered_map<int, Memory> arguments = {
      {DNNL_ARG_SRC,
       Memory(Matrix(rows, linear.inputs_, linear.inputs_), engine_, const_cast<float*>(x))},
      {DNNL_ARG_WEIGHTS, tile.weights},
      {DNNL_ARG_DST, Memory(Matrix(rows, width, linear.outputs_), engine_, y + tile.first)}};
  if (tile.bias) arguments.emplace(DNNL_ARG_BIAS, tile.bias);
  std::vector<uint8_t>& scratchpad = scratchpads_[thread];
  if (!scratchpad.empty()) {
    const Memory::dims bytes = {static_cast<Memory::dim>(scratchpad.size())};
    arguments.emplace(
        DNNL_ARG_SCRATCHPAD,
        Memory({bytes, Memory::data_type::u8, Memory::format_tag::a}, engine_, scratchpad.data()));
  }
  omp_set_num_threads(1);  // a setting of the calling thread, so it is made by each
  (*tile.primitives)[bucket].execute(streams_[thread], arguments);
}

absl::Status LinearEngine::Apply(const Linear& linear, const float* x, int rows, float* y) {
  KV_CHECK(rows >= 1 && rows <= linear.rows_max_);
  const int bucket = BucketOf(rows);
  std::atomic<bool> failed = false;
  const auto run_tile = [&](int index, int thread) {
    try {
      RunTile(linear, linear.tiles_[index], bucket, x, thread, y);
    } catch (const dnnl::error&) {
      failed = true;
    }
  };
  const int tiles = static_cast<int>(linear.tiles_.size());
  if (int64_t{rows} * linear.inputs_ * linear.outputs_ < kSharedProductsMin) {
    for (int tile = 0; tile < tiles; ++tile) run_tile(tile, 0);
  } else {
    team_->Run(tiles, run_tile);
  }
  if (failed) return ToStatus("a matrix product failed");
  return absl::OkStatus();
}

}  // namespace palimpsest
