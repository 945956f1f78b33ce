// SPDX-License-Identifier: Apache-2.0
// Products of rows of books (operand_book.h), 64 rows by 64: by warpgroups where there are such
// (sm_90a), else by each of their warps for itself.
//
// StartX puts products under way, which may go on while other things are done. Before the first of
// several comes BeginProducts; EndProducts waits for all. Or CommitProducts ends a group of them,
// and AwaitProducts waits for all but the last groups. REQUIRES: whole warpgroups call them.
//
// Between, there must be no branch that the compiler takes for divergent, and registers for all of
// it: else it quietly puts one product after the other (ptxas -v: "wgmma ... are serialized").
#pragma once

#include <cstdint>

#include "kernels/cuda/operand_book.h"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/cuda/warpgroup_mma.cuh"

namespace palimpsest::cuda {

// 16 rows of a book as operand A of one warp.
template <int kDim>
struct RowOperand {
  static constexpr int kSteps = kDim / 16;
  uint32_t a[kSteps][4];

  // `book` in device memory; `first`: a multiple of 8.
  __device__ void Load(const uint8_t* book, uint32_t first, uint32_t lane) {
    const auto* words = reinterpret_cast<const uint32_t*>(book + BookBytes(first, kDim)) + lane;
    constexpr uint32_t kMatrixWords = kMatrixBytes / 4;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // i % 2: the upper 8 rows; i / 2: the latter 8 channels
        a[step][i] = __ldcg(words + (i % 2 * (kDim / 8) + 2 * step + i / 2) * kMatrixWords);
      }
    }
  }
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ void BeginProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kLeft = 0>
__device__ __forceinline__ void AwaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}
__device__ __forceinline__ void EndProducts() {
  CommitProducts();
  AwaitProducts();
}
// None of these is read before, nor later than, what else is volatile: for after a wait.
template <int kCount>
__device__ __forceinline__ void UseProducts(float (&d)[kCount][4]) {
#pragma unroll
  for (auto& of : d) {
    asm volatile("" : "+f"(of[0]), "+f"(of[1]), "+f"(of[2]), "+f"(of[3])::"memory");
  }
}

// D = rows · tile^T, or added to what D was. `tile`: 64 rows of a book in shared memory.
template <int kDim>
__device__ __forceinline__ void StartProducts(const RowOperand<kDim>& rows, const uint8_t* tile,
                                              float (&d)[8][4], bool add = false) {
  const uint64_t matrices = DescribeMatrices(tile, kMatrixBytes, 16 * kDim);
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    WarpgroupMultiplyAdd<0>(d, rows.a[step], matrices + step * (2 * kMatrixBytes / 16),
                            add || step != 0);
  }
}
// The same with the warpgroup's 64 rows in shared memory too.
template <int kDim>
__device__ __forceinline__ void StartProducts(const uint8_t* rows, const uint8_t* tile,
                                              float (&d)[8][4]) {
  const uint64_t of_rows = DescribeMatrices(rows, kMatrixBytes, 16 * kDim);
  const uint64_t of_tile = DescribeMatrices(tile, kMatrixBytes, 16 * kDim);
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    const int next = step * (2 * kMatrixBytes / 16);
    WarpgroupMultiplyAdd<0>(d, of_rows + next, of_tile + next, step != 0);
  }
}
// D += weights · tile: sums of the tile's rows. weights[i]: operand A of its rows 16i .. 16i + 15.
template <int kDim>
__device__ __forceinline__ void StartSums(const uint32_t (&weights)[4][4], const uint8_t* tile,
                                          float (&d)[kDim / 8][4]) {
  const uint64_t matrices = DescribeMatrices(tile, 16 * kDim, kMatrixBytes);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    WarpgroupMultiplyAdd<1>(d, weights[step], matrices + step * (2 * 16 * kDim / 16), 1);
  }
}

#else  // the same, at once

__device__ __forceinline__ void BeginProducts() {}
__device__ __forceinline__ void CommitProducts() {}
template <int kLeft = 0>
__device__ __forceinline__ void AwaitProducts() {}
__device__ __forceinline__ void EndProducts() {}
template <int kCount>
__device__ __forceinline__ void UseProducts(float (&)[kCount][4]) {}

// Each thread's 16 bytes are a row of one of four matrices.
template <bool kTransposed>
__device__ __forceinline__ void LoadMatrices(uint32_t row_address, uint32_t (&b)[4]) {
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(row_address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(row_address)
                 : "memory");
  }
}
__device__ __forceinline__ void MultiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1) {
  MultiplyAdd(d, a[0], a[1], a[2], a[3], b0, b1);
}

template <int kDim>
__device__ __forceinline__ void StartProducts(const RowOperand<kDim>& rows, const uint8_t* tile,
                                              float (&d)[8][4], bool add = false) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    // Four matrices that follow each other: 32 channels of 8 rows.
    const uint32_t matrices = SharedAddress(tile + BookBytes(8 * j, kDim)) + threadIdx.x % 32 * 16;
#pragma unroll
    for (float& x : d[j]) x = add ? x : 0.0f;
#pragma unroll
    for (int step = 0; step < kDim / 16; step += 2) {
      uint32_t b[4];
      LoadMatrices<false>(matrices + step * 2 * kMatrixBytes, b);
      MultiplyAdd(d[j], rows.a[step], b[0], b[1]);
      MultiplyAdd(d[j], rows.a[step + 1], b[2], b[3]);
    }
  }
}

template <int kDim>
__device__ __forceinline__ void StartProducts(const uint8_t* rows, const uint8_t* tile,
                                              float (&d)[8][4]) {
  const uint8_t* own = rows + BookBytes(threadIdx.x % 128 / 32 * 16, kDim);
  RowOperand<kDim> operand;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint8_t* matrix = own + i % 2 * (16 * kDim) + (2 * step + i / 2) * kMatrixBytes;
      operand.a[step][i] = reinterpret_cast<const uint32_t*>(matrix)[threadIdx.x % 32];
    }
  }
  StartProducts<kDim>(operand, tile, d);
}

template <int kDim>
__device__ __forceinline__ void StartSums(const uint32_t (&weights)[4][4], const uint8_t* tile,
                                          float (&d)[kDim / 8][4]) {
  const uint32_t thread = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < kDim / 8; ++j) {
    // Matrices of 32 rows of the tile, 8 channels.
    const uint32_t matrices =
        SharedAddress(tile + j * kMatrixBytes) + thread / 8 * (16 * kDim) + thread % 8 * 16;
#pragma unroll
    for (int step = 0; step < 4; step += 2) {
      uint32_t b[4];
      LoadMatrices<true>(matrices + step * 2 * (16 * kDim), b);
      MultiplyAdd(d[j], weights[step], b[0], b[1]);
      MultiplyAdd(d[j], weights[step + 1], b[2], b[3]);
    }
  }
}

#endif

}  // namespace palimpsest::cuda
