// SPDX-License-Identifier: Apache-2.0
#include "bench/fleet/gpu_fleet.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/fleet/page_writer.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/device_memory.h"
#include "services/decode/model/known_shapes.h"

namespace palimpsest::bench {
namespace {

// What is left for pages beside the weights, the open groups and room to work in.
absl::StatusOr<uint64_t> RoomForPages(const ModelConfig& config, uint32_t batch_max) {
  constexpr uint64_t kRoomToWork = uint64_t{4} << 30;
  size_t free_bytes = 0, total_bytes = 0;
  KV_RETURN_IF_ERROR(
      cuda::ToStatus(cudaMemGetInfo(&free_bytes, &total_bytes), "the device's free memory"));
  const uint64_t taken =
      2 * ParameterCount(config) + batch_max * OpenGroupBytes(config.cache_shape()) + kRoomToWork;
  if (free_bytes <= taken) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the device has ", free_bytes, " bytes free, the model alone takes about ", taken));
  }
  return free_bytes - taken;
}

}  // namespace

absl::StatusOr<GpuFleet> NewGpuFleet(const GpuFleetOptions& options) {
  KV_ASSIGN_OR_RETURN(ModelConfig config, KnownShape(options.shape));
  config.max_positions = std::max(config.max_positions, static_cast<int>(options.tokens) + 1024);
  GpuFleet made;
  made.shape = config.cache_shape();
  made.pool_bytes = options.pool_bytes;
  if (made.pool_bytes == 0) {
    KV_ASSIGN_OR_RETURN(made.pool_bytes, RoomForPages(config, options.batch_max));
  }
  KV_ASSIGN_OR_RETURN(PagePool pool,
                      PagePool::Create({.shape = made.shape, .pool_bytes = made.pool_bytes}));
  KV_ASSIGN_OR_RETURN(std::unique_ptr<CudaBackend> backend,
                      NewCudaBackend({.shape = made.shape,
                                      .query_heads = config.query_heads,
                                      .pool_bytes = pool.capacity_bytes(),
                                      .open_groups = options.batch_max,
                                      .rows_max = options.batch_max,
                                      .rotate_keys = options.rotate_keys},
                                     {}));
  CudaModelOptions model_options{.rows_max = static_cast<int>(options.batch_max),
                                 .logit_rows_max = static_cast<int>(options.batch_max)};
  for (const uint32_t layer : SparsityLayers(config.layers)) {
    model_options.observed_layers.push_back(static_cast<int>(layer));
  }
  KV_ASSIGN_OR_RETURN(made.model,
                      NewSyntheticCudaModel(config, /*seed=*/1, model_options, backend.get()));
  const uint64_t embedding = 2 * static_cast<uint64_t>(config.vocab_size) * config.hidden_size;
  made.read_weight_bytes = made.model->weight_bytes() - (config.tied_embeddings ? 0 : embedding);
  made.stream = backend->stream();
  const auto writer = [pool = backend->pool(), stream = made.stream,
                       groups = options.batch_max](const PretendBackend& recorded) {
    return WritePages(pool, recorded, groups, stream);
  };
  made.fleet = std::make_unique<Fleet>(made.model.get(), std::move(backend), std::move(pool),
                                       options.batch_max, writer);
  return made;
}

}  // namespace palimpsest::bench
