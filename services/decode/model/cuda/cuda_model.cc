// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/cuda/cuda_model.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/array_packer.h"
#include "kernels/cuda/staged_block.h"
#include "services/decode/model/counter_random.h"
#include "services/decode/model/cuda/device_weights.h"
#include "services/decode/model/cuda/graph.h"
#include "services/decode/model/cuda/step_kernels.h"
#include "services/decode/model/step_checks.h"

namespace palimpsest {
namespace {

using cuda::ToStatus;

// Where a step's inputs lie in the staged block: close together, so that one small copy takes them
// over. Captured graphs read the tokens alone, which always lie first.
struct InputLayout {
  InputLayout(size_t rows, size_t head_rows, size_t sample_rows) {
    cuda::ArrayPacker packer;
    packer.Add<int32_t>(rows);
    logit_rows = packer.Add<uint32_t>(head_rows);
    samples = packer.Add<cuda::SampleRow>(sample_rows);
    bytes = packer.bytes();
  }
  uint64_t logit_rows, samples, bytes;
};

class CudaModelImpl final : public CudaModel {
 public:
  CudaModelImpl(ModelConfig config, const CudaModelOptions& options, CudaBackend* backend)
      : config_(std::move(config)), options_(options), backend_(backend) {}

  ~CudaModelImpl() override {
    // What is in flight reads memory that is about to go.
    (void)cudaStreamSynchronize(backend_->stream());
  }

  // Allocates, loads, plans and captures everything. Called once, before anything else.
  absl::Status Start(const cuda::TensorFill& fill);

  const ModelConfig& config() const override { return config_; }
  int rows_max() const override { return options_.rows_max; }
  int logit_rows_max() const override { return options_.logit_rows_max; }
  int head_rows_max() const override { return kernels_->head_buckets().rows().back(); }
  uint64_t weight_bytes() const override { return weights_.bytes(); }
  uint64_t working_bytes() const override { return kernels_->buffers().bytes; }
  bool may_observe(int layer) const override {
    return layer >= 0 && layer < config_.layers && kernels_->may_observe(layer);
  }
  int PaddedRows(int rows) const override {
    return kernels_->buckets().rows()[kernels_->buckets().Find(rows)];
  }

  absl::Status Forward(const StepBatch& batch, Backend& backend, absl::Span<float> logits) override;
  absl::Status StartGenerate(const StepBatch& batch, Backend& backend,
                             absl::Span<const SampleSpec> samples) override;
  absl::Status AwaitTokens(absl::Span<int32_t> tokens) override;
  absl::Status Enqueue(StepPart part, int layer, int rows) override;

 private:
  cudaStream_t stream() const { return backend_->stream(); }
  absl::Status CheckOptions() const;
  absl::Status CheckRoom() const;
  absl::Status CaptureGraphs();
  absl::Status WarmUp();
  absl::Status StageInputs(const StepBatch& batch, absl::Span<const SampleSpec> samples);
  int PaddedHeadRows(int rows) const;
  absl::Status RunLayers(const StepBatch& batch, Backend& backend,
                         absl::Span<const SampleSpec> samples);
  absl::Status Observe(const StepBatch& batch) const;
  cuda::StepInputs LayerInputs() const;
  cuda::HeadInputs HeadRows(int first) const;

  // Calls enqueue(first, count) for rounds of logit rows that the head can take at once, after
  // their logits have been enqueued.
  absl::Status ForHeadRows(int rows, absl::FunctionRef<absl::Status(int, int)> enqueue);

  const ModelConfig config_;
  const CudaModelOptions options_;
  CudaBackend* const backend_;
  cuda::DeviceWeights weights_;
  std::unique_ptr<cuda::StepKernels> kernels_;
  cuda::StagedBlock inputs_;
  InputLayout layout_{0, 0, 0};  // of the last step
  // What steps have chosen: for the next one, and for the host, which may still read those of the
  // step before.
  cuda::DeviceBytes chosen_;  // [logit_rows_max] int32_t
  struct HostTokens {
    cuda::PinnedBytes chosen;  // the same
    cuda::Event complete;
  };
  std::array<HostTokens, kStepsAhead> host_tokens_;
  StartedSteps steps_;
  std::vector<cuda::Graph> graphs_;  // by bucket of rows
};

absl::Status CudaModelImpl::CheckOptions() const {
  constexpr int kRowsMax = 8192;
  const auto bad = [](auto&&... parts) {
    return absl::InvalidArgumentError(absl::StrCat("CUDA model: ", parts...));
  };
  if (options_.rows_max < 1 || options_.rows_max > kRowsMax || options_.logit_rows_max < 1 ||
      options_.logit_rows_max > options_.rows_max) {
    return bad("rows_max ", options_.rows_max, " (1 to ", kRowsMax, "), logit_rows_max ",
               options_.logit_rows_max, " (1 to rows_max)");
  }
  int least = 0;
  for (const int layer : options_.observed_layers) {
    if (layer < least || layer >= config_.layers) {
      return bad("observed_layers [", absl::StrJoin(options_.observed_layers, ", "),
                 "], allowed: ascending, below ", config_.layers);
    }
    least = layer + 1;
  }
  constexpr int kVector = 8;
  if (!cuda::ElementwiseSupports(config_.hidden_size) || config_.intermediate_size % kVector != 0) {
    return bad("hidden_size ", config_.hidden_size, ", intermediate_size ",
               config_.intermediate_size, ", allowed: multiples of 8, hidden_size up to 16384");
  }
  return absl::OkStatus();
}

// Says what is wanted before the first allocation fails without a reason.
absl::Status CudaModelImpl::CheckRoom() const {
  constexpr double kMegabyte = 1e6;
  size_t free = 0, total = 0;
  KV_RETURN_IF_ERROR(ToStatus(cudaMemGetInfo(&free, &total), "ask for free memory"));
  const uint64_t weights = cuda::DeviceWeights::BytesFor(config_);
  const uint64_t working =
      cuda::StepBuffers::BytesFor(config_, cuda::StepKernels::BufferSizes(options_)) +
      cuda::MatmulEngine::kWorkspaceBytes;
  if (weights + working <= free) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the model needs ", weights / kMegabyte, " MB for weights and ", working / kMegabyte,
      " MB for a step (rows_max ", options_.rows_max, ", logit_rows_max ", options_.logit_rows_max,
      ", ", options_.observed_layers.size(), " observed layers); of the device's ",
      total / kMegabyte, " MB, ", free / kMegabyte,
      " MB are free: a smaller page pool leaves more"));
}

absl::Status CudaModelImpl::Start(const cuda::TensorFill& fill) {
  KV_RETURN_IF_ERROR(CheckOptions());
  KV_RETURN_IF_ERROR(CheckRoom());
  const auto log = [&](const char* message) {
    if (options_.log != nullptr) options_.log->Info(message);
  };
  log("loading weights");
  KV_ASSIGN_OR_RETURN(weights_, cuda::DeviceWeights::Make(config_, fill, stream()));
  log("planning matrix products");
  KV_ASSIGN_OR_RETURN(kernels_, cuda::StepKernels::Make(config_, options_, &weights_, backend_));
  layout_ = InputLayout(options_.rows_max, PaddedHeadRows(options_.logit_rows_max),
                        options_.logit_rows_max);
  KV_ASSIGN_OR_RETURN(inputs_,
                      cuda::StagedBlock::Make(layout_.bytes, stream(), "the inputs of a step"));
  const uint64_t chosen_bytes = options_.logit_rows_max * sizeof(int32_t);
  KV_ASSIGN_OR_RETURN(chosen_, cuda::AllocateDevice(chosen_bytes, stream(), "the chosen tokens"));
  for (HostTokens& tokens : host_tokens_) {
    KV_ASSIGN_OR_RETURN(tokens.chosen, cuda::AllocatePinned(chosen_bytes, "the chosen tokens"));
    KV_ASSIGN_OR_RETURN(tokens.complete, cuda::NewEvent());
  }
  log("capturing graphs");
  return CaptureGraphs();
}

absl::Status CudaModelImpl::CaptureGraphs() {
  KV_RETURN_IF_ERROR(backend_->BeginStep({}, {}));  // what is captured does not depend on it
  for (size_t bucket = 0; bucket < kernels_->buckets().rows().size(); ++bucket) {
    KV_ASSIGN_OR_RETURN(cuda::Graph graph, cuda::CaptureGraph(stream(), [&] {
                          return kernels_->EnqueueLayers(LayerInputs(), bucket);
                        }));
    graphs_.push_back(std::move(graph));
  }
  return WarmUp();
}

// Runs what graphs do not hold: CUDA loads code when it is first launched, into memory that it then
// allocates.
absl::Status CudaModelImpl::WarmUp() {
  KV_RETURN_IF_ERROR(kernels_->EnqueueLogits(HeadRows(0), 0));
  KV_RETURN_IF_ERROR(kernels_->EnqueueSample(HeadRows(0), 1));
  return backend_->Synchronize();
}

cuda::StepInputs CudaModelImpl::LayerInputs() const {
  return {.tokens = {.ids = reinterpret_cast<const int32_t*>(inputs_.device()),
                     .chosen = reinterpret_cast<const int32_t*>(chosen_.get())}};
}

cuda::HeadInputs CudaModelImpl::HeadRows(int first) const {
  const uint8_t* base = inputs_.device();
  uint8_t* const host = host_tokens_[steps_.next_slot()].chosen.get();
  return {.logit_rows = reinterpret_cast<const uint32_t*>(base + layout_.logit_rows) + first,
          .samples = reinterpret_cast<const cuda::SampleRow*>(base + layout_.samples) + first,
          .tokens = {.device = reinterpret_cast<int32_t*>(chosen_.get()) + first,
                     .host = reinterpret_cast<int32_t*>(host) + first}};
}

// What ForHeadRows reads: whole rounds, and a bucket.
int CudaModelImpl::PaddedHeadRows(int rows) const {
  if (rows == 0) return 0;
  const int before_last = (rows - 1) / head_rows_max() * head_rows_max();
  const cuda::RowBuckets& buckets = kernels_->head_buckets();
  return before_last + buckets.rows()[buckets.Find(rows - before_last)];
}

// Copies what the step reads. Padding gets token 0 and logit row 0: valid, and nobody's.
absl::Status CudaModelImpl::StageInputs(const StepBatch& batch,
                                        absl::Span<const SampleSpec> samples) {
  const int padded = PaddedRows(static_cast<int>(batch.tokens.size()));
  const int padded_head = PaddedHeadRows(static_cast<int>(batch.logit_rows.size()));
  layout_ = InputLayout(padded, padded_head, samples.size());
  KV_ASSIGN_OR_RETURN(uint8_t* const host, inputs_.Begin());
  const auto tokens = absl::MakeSpan(reinterpret_cast<int32_t*>(host), padded);
  std::fill(std::copy(batch.tokens.begin(), batch.tokens.end(), tokens.begin()), tokens.end(), 0);
  const auto logit_rows =
      absl::MakeSpan(reinterpret_cast<uint32_t*>(host + layout_.logit_rows), padded_head);
  std::fill(std::copy(batch.logit_rows.begin(), batch.logit_rows.end(), logit_rows.begin()),
            logit_rows.end(), 0);
  auto* row = reinterpret_cast<cuda::SampleRow*>(host + layout_.samples);
  for (const auto& [params, position] : samples) {
    *row++ = {.uniform = CounterUniform(params.seed, position),
              .temperature = params.temperature,
              .top_k = params.top_k,
              .top_p = params.top_p,
              .min_p = params.min_p};
  }
  return inputs_.Copy(layout_.bytes, stream());
}

absl::Status CudaModelImpl::RunLayers(const StepBatch& batch, Backend& backend,
                                      absl::Span<const SampleSpec> samples) {
  if (backend.activation_type() != ActivationType::kBfloat16) {
    return absl::InvalidArgumentError("a CUDA model needs the CUDA backend it was made for");
  }
  KV_RETURN_IF_ERROR(backend.BeginStep(batch.sequences, batch.rows));
  KV_RETURN_IF_ERROR(StageInputs(batch, samples));
  const size_t bucket = kernels_->buckets().Find(static_cast<int>(batch.tokens.size()));
  return ToStatus(cudaGraphLaunch(graphs_[bucket].get(), stream()), "launch the layers");
}

absl::Status CudaModelImpl::ForHeadRows(int rows,
                                        absl::FunctionRef<absl::Status(int, int)> enqueue) {
  for (int first = 0; first < rows; first += head_rows_max()) {
    const int count = std::min(rows - first, head_rows_max());
    const size_t bucket = kernels_->head_buckets().Find(count);
    KV_RETURN_IF_ERROR(kernels_->EnqueueLogits(HeadRows(first), bucket));
    KV_RETURN_IF_ERROR(enqueue(first, count));
  }
  return absl::OkStatus();
}

// The graph has kept the queries of the layers that may be observed. Called before the head, which
// is then what a host can plan in that waits for observations.
absl::Status CudaModelImpl::Observe(const StepBatch& batch) const {
  if (batch.observer == nullptr) return absl::OkStatus();
  for (const int layer : batch.observer->layers()) {
    KV_RETURN_IF_ERROR(batch.observer->AfterAttend(layer, kernels_->Observed(layer)));
  }
  return absl::OkStatus();
}

absl::Status CudaModelImpl::Forward(const StepBatch& batch, Backend& backend,
                                    absl::Span<float> logits) {
  KV_RETURN_IF_ERROR(CheckForward(*this, batch, logits.size()));
  KV_RETURN_IF_ERROR(RunLayers(batch, backend, {}));
  KV_RETURN_IF_ERROR(Observe(batch));
  const size_t row_bytes = config_.vocab_size * sizeof(float);
  const size_t pitch = kernels_->buffers().logit_stride * sizeof(float);
  KV_RETURN_IF_ERROR(
      ForHeadRows(static_cast<int>(batch.logit_rows.size()), [&](int first, int count) {
        float* to = &logits[static_cast<size_t>(first) * config_.vocab_size];
        return ToStatus(cudaMemcpy2DAsync(to, row_bytes, kernels_->buffers().logits, pitch,
                                          row_bytes, count, cudaMemcpyDeviceToHost, stream()),
                        "copy logits");
      }));
  return backend.Synchronize();
}

absl::Status CudaModelImpl::StartGenerate(const StepBatch& batch, Backend& backend,
                                          absl::Span<const SampleSpec> samples) {
  KV_RETURN_IF_ERROR(CheckStart(*this, batch, samples.size(), steps_));
  KV_RETURN_IF_ERROR(RunLayers(batch, backend, samples));
  KV_RETURN_IF_ERROR(Observe(batch));
  KV_RETURN_IF_ERROR(ForHeadRows(static_cast<int>(samples.size()), [&](int first, int count) {
    return kernels_->EnqueueSample(HeadRows(first), count);
  }));
  const cuda::Event& complete = host_tokens_[steps_.next_slot()].complete;
  KV_RETURN_IF_ERROR(
      ToStatus(cudaEventRecord(complete.get(), stream()), "mark a step as complete"));
  steps_.Start(samples.size());
  return absl::OkStatus();
}

absl::Status CudaModelImpl::AwaitTokens(absl::Span<int32_t> tokens) {
  KV_ASSIGN_OR_RETURN(const size_t slot, steps_.Await(tokens.size()));
  const HostTokens& from = host_tokens_[slot];
  KV_RETURN_IF_ERROR(backend_->Await(from.complete.get()));
  std::memcpy(tokens.data(), from.chosen.get(), tokens.size() * sizeof(int32_t));
  return absl::OkStatus();
}

absl::Status CudaModelImpl::Enqueue(StepPart part, int layer, int rows) {
  const bool is_head = part >= StepPart::kFinalNorm;
  const int rows_allowed = is_head ? head_rows_max() : rows_max();
  if (rows < 1 || rows > rows_allowed || layer < 0 || layer >= config_.layers) {
    return absl::InvalidArgumentError(absl::StrCat(Name(part), ": ", rows, " rows of ",
                                                   rows_allowed, ", layer ", layer, " of ",
                                                   config_.layers));
  }
  const size_t bucket = (is_head ? kernels_->head_buckets() : kernels_->buckets()).Find(rows);
  switch (part) {
    case StepPart::kEmbed:
      return kernels_->EnqueueEmbed(LayerInputs(), bucket);
    case StepPart::kFinalNorm:
      return kernels_->EnqueueFinalNorm(HeadRows(0), bucket);
    case StepPart::kHead:
      return kernels_->EnqueueHead(bucket);
    case StepPart::kSample:
      return kernels_->EnqueueSample(HeadRows(0), rows);
    default:
      return kernels_->EnqueuePart(part, layer, bucket);
  }
}

absl::StatusOr<std::unique_ptr<CudaModel>> MakeModel(const ModelConfig& config,
                                                     const cuda::TensorFill& fill,
                                                     const CudaModelOptions& options,
                                                     CudaBackend* backend) {
  auto model = std::make_unique<CudaModelImpl>(config, options, backend);
  KV_RETURN_IF_ERROR(model->Start(fill));
  return model;
}

}  // namespace

absl::string_view Name(StepPart part) {
  constexpr std::array<absl::string_view, kStepParts> kNames = {
      "embed",   "input_norm", "qkv",  "append",     "attend", "output", "post_norm",
      "gate_up", "swiglu",     "down", "final_norm", "head",   "sample"};
  return kNames[static_cast<size_t>(part)];
}

absl::StatusOr<std::unique_ptr<CudaModel>> NewCudaModel(const std::string& folder,
                                                        const CudaModelOptions& options,
                                                        CudaBackend* backend) {
  KV_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(folder));
  KV_ASSIGN_OR_RETURN(const std::unique_ptr<WeightStore> store, WeightStore::Open(folder));
  return MakeModel(config, cuda::FillFromStore(store.get(), backend->stream()), options, backend);
}

absl::StatusOr<std::unique_ptr<CudaModel>> NewSyntheticCudaModel(const ModelConfig& config,
                                                                 uint64_t seed,
                                                                 const CudaModelOptions& options,
                                                                 CudaBackend* backend) {
  return MakeModel(config, cuda::FillSynthetic(seed, backend->stream()), options, backend);
}

}  // namespace palimpsest
