// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/slot_scorer.h"

#include <type_traits>
#include <utility>

#include "common/base/status_macros.h"

namespace palimpsest::cuda {

absl::StatusOr<SlotScorer> SlotScorer::Make(const DeviceContext& device,
                                            const AttendGeometry& geometry,
                                            const AttendBuffers& step, uint32_t first_page) {
  SlotScorer scorer;
  const BackendConfig& config = device.layout->config();
  if (!config.shape.slot_scores) return scorer;
  const auto group = static_cast<uint32_t>(config.query_heads / config.shape.kv_heads);
  const auto pages_max = static_cast<uint32_t>(device.layout->pages_max());
  scorer.active_ = true;
  scorer.geometry_ = geometry;
  scorer.step_ = step;
  KV_RETURN_IF_ERROR(
      scorer.Allocate(device, {.first_page = first_page,
                               .pages_max = pages_max,
                               .pages = pages_max + config.rows_max,
                               .blocks = (group + geometry.queries_max - 1) / geometry.queries_max,
                               .pairs = group <= 4 ? 2u : 4u}));
  return scorer;
}

absl::Status SlotScorer::Allocate(const DeviceContext& device, const AttendTrace& shape) {
  const uint64_t rows = device.layout->config().rows_max;
  const auto columns = uint64_t(device.pool.kv_heads) * shape.blocks;
  const uint32_t tile_words = shape.pairs == 2 ? kTileWords<2> : kTileWords<4>;
  const auto allocate = [&](uint64_t count, const char* what, auto** array) -> absl::Status {
    KV_ASSIGN_OR_RETURN(DeviceBytes bytes,
                        AllocateDevice(count * sizeof(**array), device.stream, what));
    *array = reinterpret_cast<std::remove_reference_t<decltype(*array)>>(bytes.get());
    memory_.push_back(std::move(bytes));
    return absl::OkStatus();
  };
  for (int i = 0; i < kScoredTogether; ++i) {
    AttendTrace& trace = traces_[i] = shape;
    KV_RETURN_IF_ERROR(
        allocate(columns * shape.pages * tile_words, "traced probabilities", &trace.tiles));
    KV_RETURN_IF_ERROR(
        allocate(rows * columns * shape.pairs, "their denominators", &trace.log_sums));
    for (Batch* const batch : {&now_, &before_}) {
      EvictionBuffers& to = batch->evictions[i];
      KV_RETURN_IF_ERROR(
          allocate(geometry_.items_max, "tokens that may be evicted", &to.candidates));
      KV_RETURN_IF_ERROR(allocate(rows, "the least of them", &to.least));
      static_assert(kNoCandidate == ~uint64_t{0});
      KV_RETURN_IF_ERROR(
          ToStatus(cudaMemsetAsync(to.least, 0xff, rows * sizeof(*to.least), device.stream),
                   "the least of them"));
    }
  }
  return absl::OkStatus();
}

absl::Status SlotScorer::Attended(const DeviceContext& device, int layer) {
  now_.layers[now_.count++] = layer;
  if (layer + 1 == device.pool.layers) return Finish(device);
  return now_.count == kScoredTogether ? Launch(device) : absl::OkStatus();
}

absl::Status SlotScorer::Launch(const DeviceContext& device) {
  SlotScoreParams params{.pool = device.pool, .layouts = device.layouts, .step = step_};
  for (int i = 0; i < kScoredTogether; ++i) {
    params.layers[i] = {.layer = i < now_.count ? now_.layers[i] : kNoLayer,
                        .trace = traces_[i],
                        .found = now_.evictions[i],
                        .found_layer = i < before_.count ? before_.layers[i] : kNoLayer,
                        .found_before = before_.evictions[i]};
  }
  std::swap(now_, before_);
  now_.count = 0;
  return ToStatus(LaunchSlotScores(params, geometry_, device.stream), "score slots");
}

absl::Status SlotScorer::Finish(const DeviceContext& device) {
  while (now_.count > 0 || before_.count > 0) KV_RETURN_IF_ERROR(Launch(device));
  return absl::OkStatus();
}

}  // namespace palimpsest::cuda
