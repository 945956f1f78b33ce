// SPDX-License-Identifier: Apache-2.0
// Bytes of a k-means task: positions and masks of its class (68 a page and lane) twice or thrice,
// the segment's K some 5 times (from L2), 8 * tokens^2 bytes of products a layer.
#include <algorithm>

#include "kernels/cuda/anneal_clusters.cuh"
#include "kernels/cuda/anneal_kinds.h"
#include "kernels/cuda/anneal_launch.cuh"
#include "kernels/cuda/anneal_products.cuh"
#include "kernels/cuda/anneal_tokens.cuh"
#include "kernels/cuda/launch_order.cuh"

namespace palimpsest::cuda::anneal {
namespace {

constexpr uint64_t kAlignment = 256;  // of scratch arrays
constexpr uint32_t kUsualTokens = 160;
constexpr uint64_t kUsualTasks = 8;
constexpr uint64_t kScratchBytesMin = uint64_t{32} << 20;
constexpr uint64_t kScratchBytesMax = uint64_t{64} << 20;

// Inner products (the lower triangle) to squared distances. May work in place.
template <bool kShared>
__device__ void ToSquares(const double* products, uint32_t stride, uint32_t tokens, double* norms,
                          const Squares<kShared>& squares) {
  for (uint32_t i = threadIdx.x; i < tokens; i += kClusterThreads) {
    norms[i] = products[size_t{i} * (stride + 1)];
  }
  __syncthreads();
  // 32 columns at a time, and loads before stores, so that many are under way.
  constexpr uint32_t kAtOnce = 4;
  for (uint32_t first = 0; first < tokens; first += 32) {
    const uint32_t column = first + threadIdx.x % 32;
    for (uint32_t top = first + threadIdx.x / 32; top < tokens; top += kAtOnce * kClusterWarps) {
      double product[kAtOnce];
#pragma unroll
      for (uint32_t k = 0; k < kAtOnce; ++k) {
        const uint32_t row = top + k * kClusterWarps;
        product[k] =
            column <= row && row < tokens ? __ldcg(products + size_t{row} * stride + column) : 0.0;
      }
#pragma unroll
      for (uint32_t k = 0; k < kAtOnce; ++k) {
        const uint32_t row = top + k * kClusterWarps;
        if (column > row || row >= tokens) continue;
        squares.Set(row, column, norms[row] + norms[column] - 2.0 * product[k]);
      }
    }
  }
  __syncthreads();
}

// The products over some heads alone, by one CTA: where heads do not agree. In small tiles, so that
// this exception does not take registers from the rule.
__device__ void ComputeProducts(const Problem& problem, HeadRange heads, uint32_t tokens) {
  const uint32_t stride = problem.launch.tokens_max;
  const uint32_t columns = (tokens + kUnit - 1) / kUnit;
  const uint32_t rows = (columns + 1) / 2;
  for (uint32_t i = threadIdx.x / 32; i < rows * columns; i += kClusterWarps) {
    const TokenTile tile = {i / columns * 2 * kUnit, i % columns * kUnit};
    if (tile.column > tile.row + kUnit) continue;
    TileSums<2, 1> sums;
    AddProducts(problem, heads, tile, 0, 1, &sums);
    sums.ForEach([&](uint32_t r, uint32_t c, double sum) {
      const uint32_t row = tile.row + r, column = tile.column + c;
      if (row < tokens && column <= row) problem.products()[size_t{row} * stride + column] = sum;
    });
  }
  __syncthreads();
}

// K-means over heads that hold the same tokens; clears the live bits of those not kept.
template <bool kShared>
__device__ void KeepMedoids(const Problem& problem, HeadRange heads, uint8_t* shared) {
  const AnnealLaunch& launch = problem.launch;
  const uint32_t tokens = problem.count(heads.first);
  const uint32_t keep = problem.task.keep;
  if (tokens <= keep) return;
  if (heads.end - heads.first < problem.kv_heads()) ComputeProducts(problem, heads, tokens);
  ClusterMemory memory(shared, tokens, keep, kShared);
  if constexpr (!kShared) memory.rows = problem.rows();
  const Squares<kShared> squares{kShared ? memory.squares : problem.products(), launch.tokens_max};
  ToSquares(problem.products(), launch.tokens_max, tokens, memory.norms, squares);
  Clusters<kShared> clusters(memory, squares, tokens, keep);
  clusters.Init();
  // A step that moves nothing is a fixed point: those left would change nothing.
  for (int step = 0; step < kLloydSteps && clusters.Assign(); ++step) clusters.Update();
  clusters.TakeMedoids();
  const DeviceLayouts& layouts = launch.layouts;
  const PageEntry format_pair = problem.format_pair();
  for (uint32_t i = threadIdx.x; i < (heads.end - heads.first) * tokens; i += kClusterThreads) {
    if (clusters.taken(i % tokens)) continue;
    const uint32_t head = heads.first + i / tokens;
    const SlotPlace place = problem.places(head)[i % tokens];
    const PageLane lane(launch.pool, layouts, place / kSlotsPerPage * kSlotsPerPage | format_pair,
                        problem.lane(head));
    lane.ClearLive(place % kSlotsPerPage);
  }
  __syncthreads();
}

// Third launch. A CTA a problem.
template <bool kShared>
__global__ void __launch_bounds__(kClusterThreads)
    MedoidsKernel(const __grid_constant__ AnnealLaunch launch) {
  extern __shared__ double shared[];
  WaitForPredecessor();
  auto* bytes = reinterpret_cast<uint8_t*>(shared);
  const Problem problem(launch, blockIdx.x);
  const uint32_t heads = problem.kv_heads();
  const uint32_t together = problem.HeadsAgree() ? heads : 1;
  for (uint32_t head = 0; head < heads; head += together) {
    KeepMedoids<kShared>(problem, {head, head + together}, bytes);
  }
}

// What a k-means problem needs, from bounds of its tokens.
struct ProblemSize {
  uint64_t count_bytes = 0;  // of counts; agrees takes as much
  uint64_t place_bytes = 0;
  uint64_t product_bytes = 0;
  uint64_t row_bytes = 0;  // zero where shared memory has room for them
  uint64_t shared_bytes = 0;

  ProblemSize(const DevicePool& pool, uint32_t tokens, uint32_t keep, uint64_t shared_bytes_max) {
    const uint64_t heads = static_cast<uint64_t>(pool.kv_heads);
    count_bytes = heads * sizeof(uint32_t);
    place_bytes = heads * tokens * sizeof(SlotPlace);
    product_bytes = uint64_t{tokens} * tokens * sizeof(double);
    shared_bytes = ClusterMemory(nullptr, tokens, keep, true).bytes;
    if (shared_bytes <= shared_bytes_max) return;
    shared_bytes = ClusterMemory(nullptr, tokens, keep, false).bytes;
    row_bytes = uint64_t{keep} * tokens * sizeof(double);
  }
  uint64_t scratch_bytes() const {
    return 2 * count_bytes + place_bytes + product_bytes + row_bytes;
  }
};
constexpr int kScratchArrays = 5;

uint64_t ForProblems(uint64_t scratch_bytes) {
  constexpr uint64_t kLost = kScratchArrays * kAlignment;
  return scratch_bytes > kLost ? scratch_bytes - kLost : 0;
}

// Lays the scratch of `problems` problems out.
void PlaceScratch(const AnnealParams& params, const ProblemSize& size, uint64_t problems,
                  AnnealLaunch* launch) {
  auto* next = static_cast<uint8_t*>(params.scratch);
  const auto take = [&](uint64_t bytes) {
    uint8_t* at = next;
    next += (bytes * problems + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  };
  launch->counts = reinterpret_cast<uint32_t*>(take(size.count_bytes));
  launch->agrees = reinterpret_cast<uint32_t*>(take(size.count_bytes));
  launch->places = reinterpret_cast<SlotPlace*>(take(size.place_bytes));
  launch->products = reinterpret_cast<double*>(take(size.product_bytes));
  launch->rows = reinterpret_cast<double*>(take(size.row_bytes));
}

cudaError_t SharedBytesMax(uint64_t* bytes) {
  int device = 0, optin = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&optin, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  *bytes = static_cast<uint64_t>(optin);
  return error;
}

template <bool kShared>
cudaError_t LaunchMedoids(const AnnealLaunch& launch, uint32_t problems, uint64_t shared_bytes,
                          cudaStream_t stream) {
  const cudaError_t error =
      cudaFuncSetAttribute(MedoidsKernel<kShared>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  return LaunchEarly(MedoidsKernel<kShared>, problems, kClusterThreads, shared_bytes, launch,
                     stream);
}

}  // namespace

cudaError_t LaunchKMeans(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                         cudaStream_t stream) {
  AnnealLaunch launch{
      .pool = params.pool, .layouts = params.layouts, .page_entries = params.page_entries};
  std::copy_n(tasks, count, launch.tasks);
  const auto heads = static_cast<uint32_t>(params.pool.kv_heads);
  const uint32_t problems = count * params.pool.layers;
  for (const AnnealTask* task = tasks; task < tasks + count; ++task) {
    launch.tokens_max = std::max(launch.tokens_max, TokensBound(*task));
    launch.keep_max = std::max(launch.keep_max, task->keep);
  }
  if (launch.tokens_max == 0) return cudaSuccess;                  // empty segments
  launch.keep_max = std::min(launch.keep_max, launch.tokens_max);  // who keeps all is left alone
  launch.product_tiles = ProductTiles(launch.tokens_max);
  uint64_t shared_bytes_max = 0;
  cudaError_t error = SharedBytesMax(&shared_bytes_max);
  const ProblemSize size(params.pool, launch.tokens_max, launch.keep_max, shared_bytes_max);
  const auto at_once =
      static_cast<uint32_t>(ForProblems(params.scratch_bytes) / size.scratch_bytes());
  for (uint32_t first = 0; first < problems && error == cudaSuccess; first += at_once) {
    const uint32_t some = std::min(at_once, problems - first);
    launch.first_problem = first;
    PlaceScratch(params, size, some, &launch);
    FindTokensKernel<<<dim3(heads, some), kFindThreads, 0, stream>>>(launch);
    error = LaunchEarly(ProductsKernel, some * launch.product_tiles, kProductWarps * 32, 0, launch,
                        stream);
    if (error != cudaSuccess) return error;
    error = size.row_bytes == 0 ? LaunchMedoids<true>(launch, some, size.shared_bytes, stream)
                                : LaunchMedoids<false>(launch, some, size.shared_bytes, stream);
  }
  return error == cudaSuccess ? cudaGetLastError() : error;
}

uint64_t KMeansScratchBytes(const DevicePool& pool) {
  const ProblemSize usual(pool, kUsualTokens, kUsualTokens, /*shared_bytes_max=*/~uint64_t{0});
  return std::clamp(kUsualTasks * pool.layers * usual.scratch_bytes(), kScratchBytesMin,
                    kScratchBytesMax);
}

}  // namespace palimpsest::cuda::anneal

namespace palimpsest::cuda {

uint32_t KMeansTokensMax(const DevicePool& pool, uint64_t scratch_bytes) {
  uint32_t fits = 0, too_many = anneal::kClusterTokensMax + 1;
  while (too_many - fits > 1) {
    const uint32_t tokens = (fits + too_many) / 2;
    const anneal::ProblemSize size(pool, tokens, tokens, 0);
    const bool ok = size.scratch_bytes() <= anneal::ForProblems(scratch_bytes);
    (ok ? fits : too_many) = tokens;
  }
  return fits;
}

}  // namespace palimpsest::cuda
