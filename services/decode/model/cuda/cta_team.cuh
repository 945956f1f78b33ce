// SPDX-License-Identifier: Apache-2.0
// The CTAs of a cluster, which see each other's shared memory. Before compute capability 9.0 there
// are no clusters: a team of one.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>

namespace palimpsest::cuda {

class CtaTeam {
 public:
#if __CUDA_ARCH__ >= 900
  __device__ uint32_t size() const { return cooperative_groups::this_cluster().num_blocks(); }
  __device__ uint32_t rank() const { return cooperative_groups::this_cluster().block_rank(); }
  // Waits for all threads of the team.
  __device__ void Sync() const { cooperative_groups::this_cluster().sync(); }
  // What `shared`, of this CTA, is in the CTA of that rank.
  template <typename T>
  __device__ T* Of(uint32_t rank, T* shared) const {
    return cooperative_groups::this_cluster().map_shared_rank(shared, rank);
  }
#else
  __device__ uint32_t size() const { return 1; }
  __device__ uint32_t rank() const { return 0; }
  __device__ void Sync() const { __syncthreads(); }
  template <typename T>
  __device__ T* Of(uint32_t, T* shared) const {
    return shared;
  }
#endif
};

}  // namespace palimpsest::cuda
