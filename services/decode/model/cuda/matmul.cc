// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/cuda/matmul.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "services/decode/model/cuda/cublas_lt.h"
#include "services/decode/model/cuda/graph.h"

namespace palimpsest::cuda {
namespace {

constexpr int kCandidatesMax = 8;
constexpr int kTrialLaunches = 6;  // of one timing: enough to be in step, and for weights to rotate
constexpr int kTrialTries = 2;
// What a later proposal must save to be preferred, so that noise does not choose.
constexpr float kWorthwhile = 0.98f;

absl::Status ToStatus(cublasStatus_t code, const char* what) {
  if (code == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  const std::string text = absl::StrCat(what, ": ", cublasLtGetStatusString(code));
  if (code == CUBLAS_STATUS_ALLOC_FAILED) return absl::ResourceExhaustedError(text);
  if (code == CUBLAS_STATUS_NOT_SUPPORTED) return absl::UnimplementedError(text);
  return absl::InternalError(text);
}

template <typename T>
absl::Status SetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t name,
                          const T& value) {
  return ToStatus(cublasLtMatmulDescSetAttribute(desc, name, &value, sizeof value),
                  "describe a matrix product");
}

template <typename T>
absl::Status SetAttribute(cublasLtMatmulPreference_t preference,
                          cublasLtMatmulPreferenceAttributes_t name, const T& value) {
  return ToStatus(cublasLtMatmulPreferenceSetAttribute(preference, name, &value, sizeof value),
                  "prefer an algorithm");
}

// cuBLASLt counts in columns: a row-major [rows, size] matrix is its column-major [size, rows].
absl::StatusOr<MatmulOwned<cublasLtMatrixLayout_t>> RowMajor(cudaDataType_t type, int rows,
                                                             int size, int stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  KV_RETURN_IF_ERROR(
      ToStatus(cublasLtMatrixLayoutCreate(&layout, type, size, rows, stride), "lay out a matrix"));
  return MatmulOwned<cublasLtMatrixLayout_t>(layout);
}

cudaDataType_t OutputType(MatmulOutput output) {
  return output == MatmulOutput::kBf16 ? CUDA_R_16BF : CUDA_R_32F;
}

}  // namespace

absl::StatusOr<MatmulEngine> MatmulEngine::New(cudaStream_t stream) {
  KV_RETURN_IF_ERROR(LoadCublasLt());
  MatmulEngine engine;
  cublasLtHandle_t handle = nullptr;
  KV_RETURN_IF_ERROR(ToStatus(cublasLtCreate(&handle), "start cuBLASLt"));
  engine.handle_.reset(handle);
  KV_ASSIGN_OR_RETURN(engine.workspace_,
                      AllocateDevice(kWorkspaceBytes, stream, "cuBLASLt's workspace"));
  engine.stream_ = stream;
  return engine;
}

absl::StatusOr<Matmul> Matmul::Plan(const MatmulEngine& engine, const MatmulShape& shape,
                                    absl::Span<const int> rows, const MatmulTrial& trial) {
  Matmul matmul;
  matmul.engine_ = &engine;
  matmul.shape_ = shape;
  KV_RETURN_IF_ERROR(matmul.Describe());
  for (const int count : rows) {
    const absl::Status planned = matmul.PlanBucket(count, trial);
    if (!planned.ok()) {
      return absl::Status(planned.code(), absl::StrCat(count, " rows of ", shape.inputs, " to ",
                                                       shape.outputs, ": ", planned.message()));
    }
  }
  return matmul;
}

absl::Status Matmul::Describe() {
  cublasLtMatmulDesc_t desc = nullptr;
  KV_RETURN_IF_ERROR(ToStatus(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                              "describe a matrix product"));
  desc_.reset(desc);
  KV_RETURN_IF_ERROR(SetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T));
  if (shape_.has_bias) {
    KV_RETURN_IF_ERROR(SetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS));
    KV_RETURN_IF_ERROR(
        SetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, OutputType(shape_.output)));
  }
  KV_ASSIGN_OR_RETURN(weights_,
                      RowMajor(CUDA_R_16BF, shape_.outputs, shape_.inputs, shape_.inputs));
  return absl::OkStatus();
}

absl::Status Matmul::PlanBucket(int rows, const MatmulTrial& trial) {
  Bucket bucket;
  KV_ASSIGN_OR_RETURN(bucket.x, RowMajor(CUDA_R_16BF, rows, shape_.inputs, shape_.inputs));
  KV_ASSIGN_OR_RETURN(
      bucket.y, RowMajor(OutputType(shape_.output), rows, shape_.outputs, shape_.output_stride));
  KV_ASSIGN_OR_RETURN(const Candidates candidates, Propose(bucket));
  if (candidates.empty()) return absl::UnimplementedError("cuBLASLt has no algorithm");
  float best = std::numeric_limits<float>::infinity();
  cublasLtMatmulAlgo_t chosen = candidates.front().algo;
  for (const auto& candidate : candidates) {
    bucket.algorithm = candidate.algo;
    const absl::StatusOr<float> time = Time(bucket, trial);
    if (absl::IsUnimplemented(time.status())) continue;  // proposed, and then refused
    KV_RETURN_IF_ERROR(time.status());
    if (*time > best * kWorthwhile) continue;
    best = *time;
    chosen = bucket.algorithm;
  }
  if (std::isinf(best)) return absl::UnimplementedError("cuBLASLt ran no algorithm it proposed");
  bucket.algorithm = chosen;
  buckets_.push_back(std::move(bucket));
  microseconds_.push_back(best);
  return absl::OkStatus();
}

absl::StatusOr<Matmul::Candidates> Matmul::Propose(const Bucket& bucket) const {
  cublasLtMatmulPreference_t made = nullptr;
  KV_RETURN_IF_ERROR(ToStatus(cublasLtMatmulPreferenceCreate(&made), "prefer an algorithm"));
  const MatmulOwned<cublasLtMatmulPreference_t> preference(made);
  KV_RETURN_IF_ERROR(
      SetAttribute(made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, MatmulEngine::kWorkspaceBytes));
  // Parts of a split sum may be added by a kernel of their own, in a fixed order; not in place.
  const auto reductions = static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
  KV_RETURN_IF_ERROR(SetAttribute(made, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions));
  Candidates candidates(kCandidatesMax);
  int found = 0;
  const cublasStatus_t proposed = cublasLtMatmulAlgoGetHeuristic(
      engine_->handle_.get(), desc_.get(), weights_.get(), bucket.x.get(), bucket.y.get(),
      bucket.y.get(), made, kCandidatesMax, candidates.data(), &found);
  KV_RETURN_IF_ERROR(ToStatus(proposed, "ask cuBLASLt for algorithms"));
  candidates.resize(found);
  return candidates;
}

absl::StatusOr<float> Matmul::Time(const Bucket& bucket, const MatmulTrial& trial) const {
  KV_ASSIGN_OR_RETURN(const Graph graph, CaptureGraph(engine_->stream_, [&]() -> absl::Status {
                        for (int i = 0; i < kTrialLaunches; ++i) {
                          const MatmulWeights& weights = trial.weights[i % trial.weights.size()];
                          KV_RETURN_IF_ERROR(Enqueue(bucket, weights, trial.x, trial.y));
                        }
                        return absl::OkStatus();
                      }));
  KV_ASSIGN_OR_RETURN(const float time, TimeGraph(graph, kTrialTries, engine_->stream_));
  return time / kTrialLaunches;
}

absl::Status Matmul::Run(size_t bucket, const MatmulWeights& weights, const void* x,
                         void* y) const {
  return Enqueue(buckets_[bucket], weights, x, y);
}

absl::Status Matmul::Enqueue(const Bucket& bucket, const MatmulWeights& weights, const void* x,
                             void* y) const {
  if (shape_.has_bias) {
    KV_RETURN_IF_ERROR(SetAttribute(desc_.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, weights.bias));
  }
  const float one = 1.0f;
  const float kept = shape_.output == MatmulOutput::kAddFloat ? 1.0f : 0.0f;
  return ToStatus(
      cublasLtMatmul(engine_->handle_.get(), desc_.get(), &one, weights.weights, weights_.get(), x,
                     bucket.x.get(), &kept, y, bucket.y.get(), y, bucket.y.get(), &bucket.algorithm,
                     engine_->workspace_.get(), MatmulEngine::kWorkspaceBytes, engine_->stream_),
      "multiply matrices");
}

}  // namespace palimpsest::cuda
