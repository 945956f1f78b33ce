// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/sparsity_meter.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/sparsity.h"

namespace palimpsest::cuda {

absl::StatusOr<SparsityMeter> SparsityMeter::Make(const DeviceContext& device) {
  const BackendConfig& config = device.layout->config();
  SparsityMeter meter;
  meter.scratch_bytes_ =
      SparsityScratchBytes(device.pool, config.pool_bytes, device.layout->smallest_page_bytes());
  KV_ASSIGN_OR_RETURN(meter.scratch_, AllocateDevice(meter.scratch_bytes_, device.stream,
                                                     "the scratch of sparsity"));
  KV_ASSIGN_OR_RETURN(meter.arrivals_,
                      AllocateDevice(SparsityArrivals(device.pool) * sizeof(uint32_t),
                                     device.stream, "the arrival counters of sparsity"));
  meter.results_max_ = uint64_t{config.rows_max} * config.shape.layers;
  KV_ASSIGN_OR_RETURN(meter.results_, AllocatePinned(meter.results_max_ * sizeof(float),
                                                     "the results of sparsity"));
  KV_ASSIGN_OR_RETURN(meter.measured_, NewEvent());
  return meter;
}

absl::Status SparsityMeter::Measure(const DeviceContext& device, const StepStaging& step, int layer,
                                    absl::Span<const uint32_t> wanted, const void* q, float scale,
                                    absl::Span<float> sparsity) {
  if (wanted.empty()) return absl::OkStatus();
  uint32_t pages_max = 0;
  for (const uint32_t i : wanted) pages_max = std::max(pages_max, step.sequences()[i].page_count);
  const uint32_t pages_allowed = SparsityPagesMax(device.pool, scratch_bytes_);
  if (pages_max > pages_allowed) {
    return absl::InvalidArgumentError(absl::StrCat(
        "sparsity over ", pages_max, " pages of a sequence; there is room for ", pages_allowed));
  }
  KV_ASSIGN_OR_RETURN(float* const to, Reserve(sparsity, device.stream));
  const SparsityParams params{.pool = device.pool,
                              .layouts = device.layouts,
                              .page_entries = step.device().pages,
                              .sequences = step.device().sequences,
                              .layer = layer,
                              .q = q,
                              .scale = scale,
                              .wanted = wanted.data(),
                              .wanted_count = static_cast<uint32_t>(wanted.size()),
                              .pages_max = pages_max,
                              .scratch = reinterpret_cast<float*>(scratch_.get()),
                              .scratch_bytes = scratch_bytes_,
                              .arrivals = reinterpret_cast<uint32_t*>(arrivals_.get()),
                              .sparsity = to};
  KV_RETURN_IF_ERROR(ToStatus(LaunchSparsity(params, device.stream), "measure sparsity"));
  return ToStatus(cudaEventRecord(measured_.get(), device.stream), "mark sparsity as measured");
}

absl::Status SparsityMeter::Await() {
  KV_RETURN_IF_ERROR(ToStatus(cudaEventSynchronize(measured_.get()), "wait for sparsity"));
  return Deliver();
}

absl::StatusOr<float*> SparsityMeter::Reserve(absl::Span<float> to, cudaStream_t stream) {
  if (to.size() > results_max_) {
    return absl::InvalidArgumentError(
        absl::StrCat(to.size(), " results of sparsity at once; there is room for ", results_max_));
  }
  if (to.size() > results_max_ - results_used_) {
    KV_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(stream), "wait for results of sparsity"));
    KV_RETURN_IF_ERROR(Deliver());
  }
  float* const from = reinterpret_cast<float*>(results_.get()) + results_used_;
  results_used_ += to.size();
  owed_.push_back(to);
  return from;
}

absl::Status SparsityMeter::Deliver() {
  const float* from = reinterpret_cast<const float*>(results_.get());
  const float* const end = from + results_used_;
  const bool equal = std::find(from, end, kUnequalHeads) == end;
  for (const absl::Span<float> to : owed_) {
    if (equal) std::copy_n(from, to.size(), to.begin());
    from += to.size();
  }
  results_used_ = 0;
  owed_.clear();
  if (equal) return absl::OkStatus();
  return absl::InternalError("the KV heads of a sequence have different numbers of live keys");
}

}  // namespace palimpsest::cuda
