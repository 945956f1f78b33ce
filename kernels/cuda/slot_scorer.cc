// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/slot_scorer.h"

#include <algorithm>
#include <bit>

#include "common/base/status_macros.h"

namespace palimpsest::cuda {

namespace {

template <typename T>
absl::Status AllocateArray(uint64_t count, const char* what, cudaStream_t stream,
                           DeviceBytes* memory, T** array) {
  KV_ASSIGN_OR_RETURN(*memory, AllocateDevice(count * sizeof(T), stream, what));
  *array = reinterpret_cast<T*>(memory->get());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SlotScorer> SlotScorer::Make(const DeviceContext& device,
                                            const AttendGeometry& geometry,
                                            const AttendBuffers& step, uint32_t first_page) {
  SlotScorer scorer;
  const BackendConfig& config = device.layout->config();
  if (!config.shape.slot_scores) return scorer;
  const auto group = static_cast<uint32_t>(config.query_heads / config.shape.kv_heads);
  const uint32_t of_block = std::min(group, geometry.queries_max);
  scorer.active_ = true;
  scorer.geometry_ = geometry;
  scorer.step_ = step;
  scorer.trace_.first_page = first_page;
  scorer.trace_.pages_max = static_cast<uint32_t>(device.layout->pages_max());
  scorer.trace_.blocks = (group + of_block - 1) / of_block;
  scorer.trace_.pairs = std::bit_ceil((of_block + 1) / 2);
  KV_RETURN_IF_ERROR(scorer.Allocate(device));
  return scorer;
}

absl::Status SlotScorer::Allocate(const DeviceContext& device) {
  cudaStream_t const stream = device.stream;
  const uint64_t rows = device.layout->config().rows_max;
  const uint64_t pages = trace_.pages_max + rows;
  const uint64_t pairs = uint64_t(device.pool.kv_heads) * trace_.blocks * trace_.pairs;
  KV_RETURN_IF_ERROR(AllocateArray(pages * kSlotsPerPage * pairs, "traced probabilities", stream,
                                   &probabilities_, &trace_.probabilities));
  KV_RETURN_IF_ERROR(AllocateArray(pages * pairs * 2, "their references", stream, &references_,
                                   &trace_.references));
  KV_RETURN_IF_ERROR(
      AllocateArray(rows * pairs * 2, "their denominators", stream, &log_sums_, &trace_.log_sums));
  for (int i = 0; i < 2; ++i) {
    EvictionBuffers& to = evictions_[i];
    KV_RETURN_IF_ERROR(AllocateArray(geometry_.items_max, "tokens that may be evicted", stream,
                                     &candidates_[i], &to.candidates));
    KV_RETURN_IF_ERROR(AllocateArray(rows, "the least of them", stream, &least_[i], &to.least));
    static_assert(kNoCandidate == ~uint64_t{0});
    KV_RETURN_IF_ERROR(ToStatus(cudaMemsetAsync(to.least, 0xff, rows * sizeof(*to.least), stream),
                                "the least of them"));
  }
  return absl::OkStatus();
}

absl::Status SlotScorer::Launch(const DeviceContext& device, int layer) {
  const SlotScoreParams params{.pool = device.pool,
                               .layouts = device.layouts,
                               .step = step_,
                               .trace = trace_,
                               .layer = layer,
                               .found = evictions_[1 - found_],
                               .found_layer = found_layer_,
                               .found_before = evictions_[found_]};
  found_layer_ = layer;
  found_ = 1 - found_;
  return ToStatus(LaunchSlotScores(params, geometry_, device.stream), "score slots");
}

absl::Status SlotScorer::Score(const DeviceContext& device, int layer) {
  KV_RETURN_IF_ERROR(Launch(device, layer));
  return layer + 1 == device.pool.layers ? Finish(device) : absl::OkStatus();
}

absl::Status SlotScorer::Finish(const DeviceContext& device) {
  return found_layer_ == kNoLayer ? absl::OkStatus() : Launch(device, kNoLayer);
}

}  // namespace palimpsest::cuda
