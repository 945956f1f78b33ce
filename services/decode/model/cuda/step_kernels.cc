// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/cuda/step_kernels.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace palimpsest::cuda {
namespace {

// More logit rows than this are computed in several rounds: at so many, reading the head's weights
// again takes less time than the products themselves, and logits need not have room for all.
constexpr int kHeadRowsMax = 512;

constexpr size_t kTrialWeights = 8;  // layers that timing goes through: more than fit L2 together

}  // namespace

StepBufferSizes StepKernels::BufferSizes(const CudaModelOptions& options) {
  return {.rows_max = options.rows_max,
          .head_rows_max = std::min(options.logit_rows_max, kHeadRowsMax),
          .observed_layers = static_cast<int>(options.observed_layers.size())};
}

StepKernels::StepKernels(const ModelConfig& config, const CudaModelOptions& options,
                         const DeviceWeights* weights, CudaBackend* backend)
    : config_(config),
      buckets_(options.rows_max),
      head_buckets_(BufferSizes(options).head_rows_max),
      weights_(weights),
      backend_(backend),
      stream_(backend->stream()),
      q_of_layer_(config.layers, 0) {
  for (size_t i = 0; i < options.observed_layers.size(); ++i) {
    q_of_layer_[options.observed_layers[i]] = i + 1;
  }
}

absl::StatusOr<std::unique_ptr<StepKernels>> StepKernels::Make(const ModelConfig& config,
                                                               const CudaModelOptions& options,
                                                               const DeviceWeights* weights,
                                                               CudaBackend* backend) {
  auto kernels = absl::WrapUnique(new StepKernels(config, options, weights, backend));
  KV_ASSIGN_OR_RETURN(kernels->buffers_,
                      StepBuffers::Make(config, BufferSizes(options), kernels->stream_));
  KV_ASSIGN_OR_RETURN(kernels->engine_, MatmulEngine::New(kernels->stream_));
  KV_RETURN_IF_ERROR(kernels->PlanMatmuls(options.log));
  return kernels;
}

absl::Status StepKernels::PlanMatmuls(Log* log) {
  const ModelConfig& c = config_;
  const StepBuffers& b = buffers_;
  const auto planned = [&](const char* name, const Matmul& matmul) {
    if (log == nullptr) return;
    const auto times = matmul.microseconds();
    log->Debug(
        "matrix product planned",
        {{"product", name}, {"us_least_rows", times.front()}, {"us_rows_max", times.back()}});
  };
  KV_ASSIGN_OR_RETURN(qkv_, PlanLayers(MatmulOutput::kBf16, &DeviceLayer::qkv, c.hidden_size,
                                       c.query_size() + 2 * c.kv_size(), b.normed, b.qkv));
  planned("qkv", qkv_);
  KV_ASSIGN_OR_RETURN(output_, PlanLayers(MatmulOutput::kAddFloat, &DeviceLayer::output,
                                          c.query_size(), c.hidden_size, b.attended, b.residual));
  planned("output", output_);
  KV_ASSIGN_OR_RETURN(gate_up_,
                      PlanLayers(MatmulOutput::kBf16, &DeviceLayer::gate_up, c.hidden_size,
                                 2 * c.intermediate_size, b.normed, b.gate_up));
  planned("gate_up", gate_up_);
  KV_ASSIGN_OR_RETURN(down_, PlanLayers(MatmulOutput::kAddFloat, &DeviceLayer::down,
                                        c.intermediate_size, c.hidden_size, b.gated, b.residual));
  planned("down", down_);
  const MatmulShape head = {.inputs = c.hidden_size,
                            .outputs = c.vocab_size,
                            .output_stride = b.logit_stride,
                            .output = MatmulOutput::kFloat};
  KV_ASSIGN_OR_RETURN(head_, Matmul::Plan(engine_, head, head_buckets_.rows(),
                                          {{weights_->head()}, b.normed, b.logits}));
  planned("head", head_);
  return absl::OkStatus();
}

absl::StatusOr<Matmul> StepKernels::PlanLayers(MatmulOutput output,
                                               const MatmulWeights DeviceLayer::*which, int inputs,
                                               int outputs, const void* x, void* y) {
  MatmulTrial trial = {.x = x, .y = y};
  const auto& layers = weights_->layers();
  for (size_t i = 0; i < std::min(layers.size(), kTrialWeights); ++i) {
    trial.weights.push_back(layers[i].*which);
  }
  const MatmulShape shape = {.inputs = inputs,
                             .outputs = outputs,
                             .output_stride = outputs,
                             .output = output,
                             .has_bias = trial.weights.front().bias != nullptr};
  return Matmul::Plan(engine_, shape, buckets_.rows(), trial);
}

absl::Status StepKernels::EnqueueLayers(const StepInputs& in, size_t bucket) {
  KV_RETURN_IF_ERROR(EnqueueEmbed(in, bucket));
  for (int layer = 0; layer < config_.layers; ++layer) {
    if (layer > 0) KV_RETURN_IF_ERROR(EnqueuePart(StepPart::kInputNorm, layer, bucket));
    for (const StepPart part :
         {StepPart::kQkv, StepPart::kAppend, StepPart::kAttend, StepPart::kOutput,
          StepPart::kPostNorm, StepPart::kGateUp, StepPart::kSwiGlu, StepPart::kDown}) {
      KV_RETURN_IF_ERROR(EnqueuePart(part, layer, bucket));
    }
  }
  return absl::OkStatus();
}

// What TokenSource says of ChosenBefore.
static_assert(ChosenBefore(0) == -2 && ChosenBefore(1) == -3);

absl::Status StepKernels::EnqueueEmbed(const StepInputs& in, size_t bucket) {
  return ToStatus(
      Embed(in.tokens, weights_->embedding(), NormOf(weights_->layers().front().input_norm),
            buffers_.residual, buffers_.normed, buckets_.rows()[bucket], stream_),
      "embed");
}

absl::Status StepKernels::EnqueuePart(StepPart part, int layer, size_t bucket) {
  const DeviceLayer& weights = weights_->layers()[layer];
  const StepBuffers& b = buffers_;
  const int rows = buckets_.rows()[bucket];
  switch (part) {
    case StepPart::kInputNorm:
      return Norm(weights.input_norm, rows);
    case StepPart::kQkv:
      return qkv_.Run(bucket, weights.qkv, b.normed, b.qkv);
    case StepPart::kAppend:
      return Append(layer, rows);
    case StepPart::kAttend:
      return Attend(layer);
    case StepPart::kOutput:
      return output_.Run(bucket, weights.output, b.attended, b.residual);
    case StepPart::kPostNorm:
      return Norm(weights.post_norm, rows);
    case StepPart::kGateUp:
      return gate_up_.Run(bucket, weights.gate_up, b.normed, b.gate_up);
    case StepPart::kSwiGlu:
      return SwiGluRows(rows);
    case StepPart::kDown:
      return down_.Run(bucket, weights.down, b.gated, b.residual);
    case StepPart::kEmbed:
    case StepPart::kFinalNorm:
    case StepPart::kHead:
    case StepPart::kSample:
      break;
  }
  return absl::InvalidArgumentError(absl::StrCat(Name(part), " is no part of a layer"));
}

absl::Status StepKernels::Norm(const void* weight, int rows) {
  return ToStatus(RmsNorm(buffers_.residual, NormOf(weight), buffers_.normed, rows, stream_),
                  "norm");
}

absl::Status StepKernels::Append(int layer, int rows) {
  const DeviceLayer& weights = weights_->layers()[layer];
  return backend_->AppendProjected(layer,
                                   {.qkv = buffers_.qkv,
                                    .q = QueriesOf(layer),
                                    .q_norm = weights.q_norm,
                                    .k_norm = weights.k_norm,
                                    .rms_eps = config_.rms_eps,
                                    .rope_cos_sin = buffers_.rope_cos_sin,
                                    .positions = static_cast<uint32_t>(config_.max_positions)},
                                   rows);
}

absl::Status StepKernels::Attend(int layer) {
  LayerActivations io = Observed(layer);
  io.out = buffers_.attended;
  return backend_->Attend(layer, io);
}

absl::Status StepKernels::SwiGluRows(int rows) {
  return ToStatus(
      SwiGlu(buffers_.gate_up, config_.intermediate_size, buffers_.gated, rows, stream_), "swiglu");
}

LayerActivations StepKernels::Observed(int layer) const {
  return {.q = QueriesOf(layer), .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim))};
}

absl::Status StepKernels::EnqueueLogits(const HeadInputs& in, size_t bucket) {
  KV_RETURN_IF_ERROR(EnqueueFinalNorm(in, bucket));
  return EnqueueHead(bucket);
}

absl::Status StepKernels::EnqueueFinalNorm(const HeadInputs& in, size_t bucket) {
  // Into `normed`, which nobody reads any more.
  return ToStatus(GatherRmsNorm(buffers_.residual, in.logit_rows, NormOf(weights_->final_norm()),
                                buffers_.normed, head_buckets_.rows()[bucket], stream_),
                  "final norm");
}

absl::Status StepKernels::EnqueueHead(size_t bucket) {
  return head_.Run(bucket, weights_->head(), buffers_.normed, buffers_.logits);
}

absl::Status StepKernels::EnqueueSample(const HeadInputs& in, int rows) {
  const LogitRows logits = {.logits = buffers_.logits,
                            .stride = static_cast<uint32_t>(buffers_.logit_stride),
                            .vocab = static_cast<uint32_t>(config_.vocab_size)};
  return ToStatus(SampleTokens(logits, in.samples, rows, kNoToken, in.tokens, stream_), "sample");
}

}  // namespace palimpsest::cuda
