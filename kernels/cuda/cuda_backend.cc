// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/checks.h"
#include "kernels/cuda/annealer.h"
#include "kernels/cuda/append.h"
#include "kernels/cuda/attend.h"
#include "kernels/cuda/device_context.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/fault.h"
#include "kernels/cuda/order_staging.h"
#include "kernels/cuda/sealer.h"
#include "kernels/cuda/slot_scorer.h"
#include "kernels/cuda/sparsity_meter.h"
#include "kernels/cuda/step_staging.h"
#include "kernels/pool_layout.h"

namespace palimpsest {
namespace {

using cuda::ToStatus;

absl::Status CheckAddress(const void* p, const char* name) {
  constexpr uintptr_t kVector = 16;
  if (p == nullptr) return absl::InvalidArgumentError(absl::StrCat(name, " is null"));
  if (reinterpret_cast<uintptr_t>(p) % kVector == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " is not at a multiple of 16 bytes"));
}

// What the kernels ask for beyond kernels/checks.h.
absl::Status CheckForCuda(const BackendConfig& config) {
  KV_RETURN_IF_ERROR(CheckConfig(config));
  if (!cuda::AttendSupports(config.shape.head_dim)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "head_dim ", config.shape.head_dim, " has no CUDA kernels; there are some for 64 and 128"));
  }
  return absl::OkStatus();
}

class CudaBackendImpl final : public CudaBackend {
 public:
  CudaBackendImpl(const BackendConfig& config, const CudaOptions& options)
      : layout_(config), options_(options) {}

  ~CudaBackendImpl() override {
    // What is in flight reads memory that is about to go.
    if (stream_ != nullptr) (void)cudaStreamSynchronize(stream_.get());
  }

  // Allocates everything. Called once, before anything else.
  absl::Status Start();

  cudaStream_t stream() const override { return stream_.get(); }
  const cuda::DevicePool& pool() const override { return device_.pool; }
  const cuda::QueryWindows& queries() const override { return annealer_.queries(); }
  ActivationType activation_type() const override { return ActivationType::kBfloat16; }

  absl::Status BeginStep(absl::Span<const SequenceView> sequences,
                         absl::Span<const StepRows> rows) override;
  absl::Status Append(int layer, const NewTokens& tokens) override;
  absl::Status AppendProjected(int layer, const ProjectedQkv& io, uint32_t padded_rows) override;
  absl::Status Attend(int layer, const LayerActivations& io) override;
  absl::Status MeasureSparsity(int layer, absl::Span<const uint32_t> wanted,
                               const LayerActivations& io, absl::Span<float> sparsity) override;
  absl::Status Seal(absl::Span<const SequenceView> sequences,
                    absl::Span<const SealOrder> orders) override;
  absl::Status Anneal(absl::Span<const SequenceView> sequences,
                      absl::Span<const AnnealOrder> orders) override;
  absl::Status Zero(PageOffset offset, uint64_t bytes) override;
  absl::Status ZeroOpenGroup(uint32_t open_group) override;
  absl::Status Read(PageOffset offset, absl::Span<uint8_t> out) const override;
  absl::Status Synchronize() override;
  absl::Status AwaitSparsity() override;
  absl::Status Await(cudaEvent_t event) override;

 private:
  // Every call begins with it: the backend lives and its device is the thread's current one.
  absl::Status Enter() const {
    KV_RETURN_IF_ERROR(dead_);
    return Ran(cudaSetDevice(options_.device), "use the device");
  }
  // The same for calls that are not a layer's: they see what Attend has done, all of it.
  absl::Status EnterBetweenLayers() const {
    KV_RETURN_IF_ERROR(Enter());
    return Done(slot_scorer_.Finish(device_));
  }
  absl::Status EnterStep(int layer) const {
    KV_RETURN_IF_ERROR(Enter());
    if (!in_step_) return absl::FailedPreconditionError("no step has begun");
    return CheckLayer(layout_, layer);
  }
  // The Status of a CUDA call. After a fault of the device nothing works any more.
  absl::Status Ran(cudaError_t code, const char* what) const { return Done(ToStatus(code, what)); }
  absl::Status Done(absl::Status status) const {
    if (absl::IsInternal(status)) dead_ = status;
    return status;
  }
  absl::Status CheckQueries(const LayerActivations& io) const;
  // What Append and AppendProjected have in common.
  cuda::AppendParams Appending(int layer, uint32_t row_count) const {
    cuda::AppendParams params;
    params.pool = device_.pool;
    params.header = step_.device().header;
    params.rows = step_.device().rows;
    params.faults = device_.faults;
    params.layer = layer;
    params.row_count = row_count;
    params.rotate = layout_.config().rotate_keys;
    params.queries = annealer_.queries();
    return params;
  }

  absl::Status StartLaneRanks();
  absl::Status StartAttend();

  const PoolLayout layout_;
  const CudaOptions options_;
  mutable absl::Status dead_;  // what killed the backend
  bool in_step_ = false;
  bool append_takes_queries_ = false;  // in this step
  std::vector<bool> uneven_rows_;      // of this step

  cuda::Stream stream_;
  cuda::DeviceBytes pages_, open_groups_, lane_ranks_;
  cuda::FaultReport faults_;
  cuda::DeviceContext device_;  // shows what is above
  cuda::StepStaging step_;
  cuda::OrderStaging orders_;

  cuda::AttendGeometry attend_geometry_;
  cuda::DeviceBytes attend_parts_, attend_arrivals_;
  cuda::AttendBuffers attend_buffers_;
  cuda::SparsityMeter sparsity_;
  mutable cuda::SlotScorer slot_scorer_;
  cuda::Sealer sealer_;
  cuda::Annealer annealer_;
};

absl::Status CudaBackendImpl::Start() {
  const BackendConfig& config = layout_.config();
  const CacheShape& shape = config.shape;
  KV_RETURN_IF_ERROR(ToStatus(cudaSetDevice(options_.device), "use the device"));
  KV_RETURN_IF_ERROR(ToStatus(cuda::ProbeAppend(), "look for kernels built for this device"));
  KV_ASSIGN_OR_RETURN(stream_, cuda::NewStream());
  cudaStream_t const stream = stream_.get();
  const uint64_t open_bytes = config.open_groups * uint64_t{OpenGroupBytes(shape)};
  KV_ASSIGN_OR_RETURN(pages_, cuda::AllocateDevice(config.pool_bytes, stream, "the page pool"));
  KV_ASSIGN_OR_RETURN(open_groups_, cuda::AllocateDevice(open_bytes, stream, "the open groups"));
  KV_ASSIGN_OR_RETURN(faults_, cuda::FaultReport::Make(stream));
  device_ = {.layout = &layout_,
             .pool = {.pages = pages_.get(),
                      .open_groups = open_groups_.get(),
                      .open_group_bytes = OpenGroupBytes(shape),
                      .layers = shape.layers,
                      .kv_heads = shape.kv_heads,
                      .head_dim = shape.head_dim,
                      .query_heads = config.query_heads,
                      .slot_scores = shape.slot_scores,
                      .residue = shape.residue},
             .layouts = cuda::DeviceLayoutsOf(layout_),
             .faults = faults_.sink(),
             .stream = stream};
  KV_RETURN_IF_ERROR(StartLaneRanks());
  KV_RETURN_IF_ERROR(StartAttend());
  KV_ASSIGN_OR_RETURN(orders_, cuda::OrderStaging::Make(layout_, stream));
  KV_ASSIGN_OR_RETURN(sparsity_, cuda::SparsityMeter::Make(device_));
  KV_ASSIGN_OR_RETURN(sealer_, cuda::Sealer::Make(device_));
  KV_ASSIGN_OR_RETURN(annealer_, cuda::Annealer::Make(device_));
  return ToStatus(cudaStreamSynchronize(stream), "start the backend");
}

absl::Status CudaBackendImpl::StartLaneRanks() {
  const std::vector<uint32_t>& ranks = layout_.lane_ranks();
  if (ranks.empty()) return absl::OkStatus();
  const uint64_t bytes = ranks.size() * sizeof(uint32_t);
  KV_ASSIGN_OR_RETURN(lane_ranks_,
                      cuda::AllocateDevice(bytes, device_.stream, "the ranks of lanes"));
  device_.pool.lane_ranks = reinterpret_cast<const uint32_t*>(lane_ranks_.get());
  return ToStatus(cudaMemcpyAsync(lane_ranks_.get(), ranks.data(), bytes, cudaMemcpyHostToDevice,
                                  device_.stream),
                  "copy the ranks of lanes");
}

absl::Status CudaBackendImpl::StartAttend() {
  const BackendConfig& config = layout_.config();
  int multiprocessors = 0;
  KV_RETURN_IF_ERROR(ToStatus(
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, options_.device),
      "count multiprocessors"));
  attend_geometry_ =
      cuda::GeometryFor(device_.pool, multiprocessors, config.rows_max, layout_.sequences_max());
  KV_ASSIGN_OR_RETURN(step_, cuda::StepStaging::Make(layout_, attend_geometry_, device_.stream));
  const uint64_t part_bytes =
      uint64_t{attend_geometry_.queries_max} * (config.shape.head_dim + 2) * sizeof(float);
  KV_ASSIGN_OR_RETURN(attend_parts_,
                      cuda::AllocateDevice(attend_geometry_.parts_max * part_bytes, device_.stream,
                                           "partial attention states"));
  KV_ASSIGN_OR_RETURN(attend_arrivals_,
                      cuda::AllocateDevice(attend_geometry_.pairs_max * sizeof(uint32_t),
                                           device_.stream, "arrival counters"));
  const cuda::StepArrays& step = step_.device();
  attend_buffers_.page_entries = step.pages;
  attend_buffers_.items = step.items;
  attend_buffers_.first_item = step.first_item;
  attend_buffers_.header = step.header;
  attend_buffers_.sequences = step.sequences;
  attend_buffers_.words = step.words;
  attend_buffers_.layer_plans = step_.layer_plans();
  attend_buffers_.layer_plan = step_.layer_plan_shape();
  attend_buffers_.parts = reinterpret_cast<float*>(attend_parts_.get());
  attend_buffers_.arrivals = reinterpret_cast<uint32_t*>(attend_arrivals_.get());
  KV_ASSIGN_OR_RETURN(slot_scorer_, cuda::SlotScorer::Make(device_, attend_geometry_,
                                                           attend_buffers_, step.first_page));
  return absl::OkStatus();
}

absl::Status CudaBackendImpl::BeginStep(absl::Span<const SequenceView> sequences,
                                        absl::Span<const StepRows> rows) {
  in_step_ = false;  // a refused step is none
  KV_RETURN_IF_ERROR(EnterBetweenLayers());
  KV_RETURN_IF_ERROR(CheckSequences(layout_, sequences));
  KV_RETURN_IF_ERROR(CheckRows(layout_, sequences, rows));
  KV_RETURN_IF_ERROR(Done(step_.Stage(layout_, sequences, rows, stream_.get())));
  append_takes_queries_ = AppendTakesQueries(layout_.config(), sequences);
  uneven_rows_ = UnevenRows(sequences, rows);
  in_step_ = true;
  return absl::OkStatus();
}

absl::Status CudaBackendImpl::Append(int layer, const NewTokens& tokens) {
  KV_RETURN_IF_ERROR(EnterStep(layer));
  KV_RETURN_IF_ERROR(CheckAddress(tokens.k, "k"));
  KV_RETURN_IF_ERROR(CheckAddress(tokens.v, "v"));
  if (append_takes_queries_) KV_RETURN_IF_ERROR(CheckAddress(tokens.q, "q"));
  const auto heads_of = [&](const void* data, int heads) {
    const auto count = static_cast<uint32_t>(heads);
    const uint32_t stride = count * static_cast<uint32_t>(device_.pool.head_dim);
    return cuda::HeadRows{.data = data, .heads = count, .row_stride = stride};
  };
  // All the rows a step may have, so that a captured launch serves every step.
  cuda::AppendParams params = Appending(layer, layout_.config().rows_max);
  params.k = heads_of(tokens.k, device_.pool.kv_heads);
  params.v = heads_of(tokens.v, device_.pool.kv_heads);
  if (tokens.q != nullptr && (params.rotate || params.queries.queries != nullptr)) {
    params.q = heads_of(tokens.q, device_.pool.query_heads);
    params.q_out = params.rotate ? tokens.q : nullptr;  // in place
  }
  return Ran(cuda::LaunchAppend(params, stream_.get()), "append");
}

absl::Status CudaBackendImpl::AppendProjected(int layer, const ProjectedQkv& io,
                                              uint32_t padded_rows) {
  KV_RETURN_IF_ERROR(EnterStep(layer));
  KV_RETURN_IF_ERROR(CheckAddress(io.qkv, "qkv"));
  KV_RETURN_IF_ERROR(CheckAddress(io.q, "q"));
  KV_RETURN_IF_ERROR(CheckAddress(io.rope_cos_sin, "rope_cos_sin"));
  if (io.q_norm != nullptr) KV_RETURN_IF_ERROR(CheckAddress(io.q_norm, "q_norm"));
  if (io.k_norm != nullptr) KV_RETURN_IF_ERROR(CheckAddress(io.k_norm, "k_norm"));
  if (io.positions == 0) return absl::InvalidArgumentError("the RoPE table is empty");
  if (padded_rows < 1 || padded_rows > layout_.config().rows_max) {
    return absl::InvalidArgumentError(absl::StrCat(
        "padded_rows must be in 1..", layout_.config().rows_max, ", got ", padded_rows));
  }
  const auto dim = static_cast<uint32_t>(device_.pool.head_dim);
  const auto query_heads = static_cast<uint32_t>(device_.pool.query_heads);
  const auto kv_heads = static_cast<uint32_t>(device_.pool.kv_heads);
  const uint32_t stride = (query_heads + 2 * kv_heads) * dim;
  const auto* row = static_cast<const uint16_t*>(io.qkv);
  cuda::AppendParams params = Appending(layer, padded_rows);
  params.q = {.data = row, .heads = query_heads, .row_stride = stride};
  params.k = {.data = row + query_heads * dim, .heads = kv_heads, .row_stride = stride};
  params.v = {
      .data = row + (query_heads + kv_heads) * dim, .heads = kv_heads, .row_stride = stride};
  params.q_out = io.q;
  params.q_norm = io.q_norm;
  params.k_norm = io.k_norm;
  params.rms_eps = io.rms_eps;
  params.rope_cos_sin = io.rope_cos_sin;
  params.positions = io.positions;
  return Ran(cuda::LaunchAppend(params, stream_.get()), "append");
}

absl::Status CudaBackendImpl::CheckQueries(const LayerActivations& io) const {
  if (std::isfinite(io.scale)) return CheckAddress(io.q, "q");
  return absl::InvalidArgumentError("the softmax scale is not finite");
}

absl::Status CudaBackendImpl::Attend(int layer, const LayerActivations& io) {
  KV_RETURN_IF_ERROR(EnterStep(layer));
  KV_RETURN_IF_ERROR(CheckQueries(io));
  KV_RETURN_IF_ERROR(CheckAddress(io.out, "out"));
  const cuda::AttendTrace* const trace = slot_scorer_.trace();
  KV_RETURN_IF_ERROR(
      Ran(cuda::LaunchAttend(device_.pool, device_.layouts, attend_geometry_, attend_buffers_,
                             layer, io.q, io.out, io.scale, trace, stream_.get()),
          "attend"));
  return trace == nullptr ? absl::OkStatus() : Done(slot_scorer_.Attended(device_, layer));
}

absl::Status CudaBackendImpl::MeasureSparsity(int layer, absl::Span<const uint32_t> wanted,
                                              const LayerActivations& io,
                                              absl::Span<float> sparsity) {
  KV_RETURN_IF_ERROR(EnterStep(layer));
  KV_RETURN_IF_ERROR(EnterBetweenLayers());
  KV_RETURN_IF_ERROR(CheckWanted(wanted, uneven_rows_, sparsity.size()));
  KV_RETURN_IF_ERROR(CheckQueries(io));
  return Done(sparsity_.Measure(device_, step_, layer, wanted, io.q, io.scale, sparsity));
}

absl::Status CudaBackendImpl::Seal(absl::Span<const SequenceView> sequences,
                                   absl::Span<const SealOrder> orders) {
  KV_RETURN_IF_ERROR(EnterBetweenLayers());
  KV_RETURN_IF_ERROR(CheckSeal(layout_, sequences, orders));
  return Done(sealer_.Seal(device_, sequences, orders, &orders_));
}

absl::Status CudaBackendImpl::Anneal(absl::Span<const SequenceView> sequences,
                                     absl::Span<const AnnealOrder> orders) {
  KV_RETURN_IF_ERROR(EnterBetweenLayers());
  KV_RETURN_IF_ERROR(CheckAnneal(layout_, sequences, orders));
  return Done(annealer_.Anneal(device_, sequences, orders, &orders_));
}

absl::Status CudaBackendImpl::Zero(PageOffset offset, uint64_t bytes) {
  KV_RETURN_IF_ERROR(EnterBetweenLayers());
  KV_RETURN_IF_ERROR(CheckRange(layout_, offset, bytes));
  if (bytes == 0) return absl::OkStatus();
  return Ran(cudaMemsetAsync(device_.pool.pages + offset, 0, bytes, stream_.get()), "zero pages");
}

absl::Status CudaBackendImpl::ZeroOpenGroup(uint32_t open_group) {
  KV_RETURN_IF_ERROR(EnterBetweenLayers());
  KV_RETURN_IF_ERROR(CheckOpenGroup(layout_, open_group));
  KV_RETURN_IF_ERROR(Done(annealer_.ZeroQueries(device_, open_group)));
  const uint64_t bytes = OpenGroupBytes(layout_.shape());
  return Ran(
      cudaMemsetAsync(device_.pool.open_groups + open_group * bytes, 0, bytes, stream_.get()),
      "zero an open group");
}

absl::Status CudaBackendImpl::Read(PageOffset offset, absl::Span<uint8_t> out) const {
  KV_RETURN_IF_ERROR(EnterBetweenLayers());
  KV_RETURN_IF_ERROR(CheckRange(layout_, offset, out.size()));
  if (out.empty()) return absl::OkStatus();
  return Ran(cudaMemcpyAsync(out.data(), device_.pool.pages + offset, out.size(),
                             cudaMemcpyDeviceToHost, stream_.get()),
             "read pages");
}

absl::Status CudaBackendImpl::Synchronize() {
  KV_RETURN_IF_ERROR(EnterBetweenLayers());
  KV_RETURN_IF_ERROR(Ran(cudaStreamSynchronize(stream_.get()), "wait for the device"));
  KV_RETURN_IF_ERROR(Done(faults_.Take(stream_.get())));
  return sparsity_.Deliver();
}

absl::Status CudaBackendImpl::AwaitSparsity() {
  KV_RETURN_IF_ERROR(Enter());
  return Done(sparsity_.Await());
}

absl::Status CudaBackendImpl::Await(cudaEvent_t event) {
  KV_RETURN_IF_ERROR(Enter());
  KV_RETURN_IF_ERROR(Ran(cudaEventSynchronize(event), "wait for the device"));
  // A fault may just be being written: what comes after the event runs.
  return faults_.met() ? Synchronize() : absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBackend>> NewCudaBackend(const BackendConfig& config,
                                                            const CudaOptions& options) {
  KV_RETURN_IF_ERROR(CheckForCuda(config));
  auto backend = std::make_unique<CudaBackendImpl>(config, options);
  KV_RETURN_IF_ERROR(backend->Start());
  return backend;
}

}  // namespace palimpsest
