// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/linear.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace palimpsest {
namespace {

using Memory = dnnl::memory;
constexpr auto kFloat = Memory::data_type::f32;

constexpr int kExactRows = 64;   // one primitive for each row count up to here
constexpr int kRowStep = 16;     // and one for each multiple of this beyond
constexpr int kLayoutRows = 16;  // the row count whose favourite weight layout all others use

int BucketOf(int rows) {
  return rows <= kExactRows ? rows - 1
                            : kExactRows - 1 + (rows - kExactRows + kRowStep - 1) / kRowStep;
}

int RowsOfBucket(int bucket) {
  return bucket < kExactRows ? bucket + 1 : kExactRows + (bucket - kExactRows + 1) * kRowStep;
}

Memory::desc Rows(int rows, int columns) {
  return Memory::desc({rows, columns}, kFloat, Memory::format_tag::ab);
}

dnnl::matmul::primitive_desc Describe(const dnnl::engine& engine, const LinearShape& shape,
                                      int rows, const Memory::desc& weights) {
  const Memory::desc x = Rows(rows, shape.inputs);
  const Memory::desc y = Rows(rows, shape.outputs);
  const dnnl::matmul::desc desc = shape.has_bias
                                      ? dnnl::matmul::desc(x, weights, Rows(1, shape.outputs), y)
                                      : dnnl::matmul::desc(x, weights, y);
  return dnnl::matmul::primitive_desc(desc, engine);
}

absl::Status ToStatus(const dnnl::error& error, const LinearShape& shape) {
  return absl::InternalError(
      absl::StrCat("oneDNN: ", error.what(), " (matrix ", shape.outputs, " x ", shape.inputs, ")"));
}

}  // namespace

LinearEngine::LinearEngine(int threads)
    : threads_(threads), engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {}

absl::StatusOr<std::unique_ptr<LinearEngine>> LinearEngine::New(int threads) {
  KV_CHECK(threads >= 1);
  try {
    return std::unique_ptr<LinearEngine>(new LinearEngine(threads));
  } catch (const dnnl::error& error) {
    return ToStatus(error, {});
  }
}

int LinearEngine::PaddedRows(int rows) { return RowsOfBucket(BucketOf(rows)); }

// The team size belongs to the calling thread in OpenMP, so it is set where it is used; primitives
// must be made under the same size they run with.
void LinearEngine::UseThreads() const { omp_set_num_threads(threads_); }

const LinearEngine::Plan& LinearEngine::PlanFor(const LinearShape& shape) {
  const auto found = plans_.find(shape);
  if (found != plans_.end()) return found->second;
  const Memory::desc any({shape.inputs, shape.outputs}, kFloat, Memory::format_tag::any);
  Plan plan;
  plan.weights = Describe(engine_, shape, kLayoutRows, any).weights_desc();
  for (int bucket = 0; bucket <= BucketOf(shape.rows_max); ++bucket) {
    plan.primitives.emplace_back(Describe(engine_, shape, RowsOfBucket(bucket), plan.weights));
  }
  return plans_.emplace(shape, std::move(plan)).first->second;
}

absl::StatusOr<Linear> LinearEngine::Pack(int inputs, int outputs, int rows_max,
                                          absl::Span<const float> weights,
                                          absl::Span<const float> bias) {
  KV_CHECK(weights.size() == static_cast<size_t>(inputs) * outputs);
  KV_CHECK(bias.empty() || bias.size() == static_cast<size_t>(outputs));
  KV_CHECK(rows_max >= 1);
  Linear linear;
  linear.shape_ = {
      .inputs = inputs, .outputs = outputs, .has_bias = !bias.empty(), .rows_max = rows_max};
  UseThreads();
  try {
    const Plan& plan = PlanFor(linear.shape_);
    linear.primitives_ = &plan.primitives;
    // [outputs, inputs] row-major is oneDNN's {inputs, outputs} matrix with tag `ba`.
    Memory source({{inputs, outputs}, kFloat, Memory::format_tag::ba}, engine_,
                  const_cast<float*>(weights.data()));  // read only, oneDNN has no const memory
    linear.weights_ = Memory(plan.weights, engine_);
    dnnl::reorder(source, linear.weights_).execute(stream_, source, linear.weights_);
    stream_.wait();
    linear.bytes_ = plan.weights.get_size();
    if (!bias.empty()) {
      linear.bias_ = Memory(Rows(1, outputs), engine_);
      std::memcpy(linear.bias_.get_data_handle(), bias.data(), bias.size() * sizeof(float));
      linear.bytes_ += bias.size() * sizeof(float);
    }
  } catch (const dnnl::error& error) {
    return ToStatus(error, linear.shape_);
  }
  return linear;
}

absl::Status LinearEngine::Apply(const Linear& linear, const float* x, int rows, float* y) {
  const LinearShape& shape = linear.shape_;
  KV_CHECK(rows >= 1 && rows <= shape.rows_max);
  const int padded = PaddedRows(rows);
  UseThreads();
  try {
    Memory source(Rows(padded, shape.inputs), engine_, const_cast<float*>(x));
    Memory result(Rows(padded, shape.outputs), engine_, y);
    std::unordered_map<int, Memory> arguments = {
        {DNNL_ARG_SRC, source}, {DNNL_ARG_WEIGHTS, linear.weights_}, {DNNL_ARG_DST, result}};
    if (shape.has_bias) arguments.emplace(DNNL_ARG_BIAS, linear.bias_);
    (*linear.primitives_)[BucketOf(rows)].execute(stream_, arguments);
    stream_.wait();
  } catch (const dnnl::error& error) {
    return ToStatus(error, shape);
  }
  return absl::OkStatus();
}

}  // namespace palimpsest
