// SPDX-License-Identifier: Apache-2.0
// Products of rows of books (operand_book.h): one side in registers, the other in shared memory. By
// warpgroups where there are such (sm_90a), else by warps.
#pragma once

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/operand_book.h"
#include "kernels/cuda/tensor_core.cuh"

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
      for (int i = 0; i < 4; ++i) {  // i % 2: the lower 8 rows; i / 2: the latter 8 channels
        a[step][i] = __ldcg(words + (i % 2 * (kDim / 8) + 2 * step + i / 2) * kMatrixWords);
      }
    }
  }
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// D += A · B^T, 64 x 128 x 16, by four warps; operand A as in tensor_core.cuh. `matrices`
// describes B: the matrices of 16 channels of 128 rows.
__device__ __forceinline__ void WarpgroupMultiplyAdd(float (&d)[16][4], const uint32_t (&a)[4],
                                                     uint64_t matrices, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]),
        "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]), "+f"(d[10][1]),
        "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]),
        "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]),
        "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]), "+f"(d[14][0]),
        "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]), "+f"(d[15][1]),
        "+f"(d[15][2]), "+f"(d[15][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(matrices), "r"(accumulate));
}

// D = A · B^T: the warpgroup's 64 rows by the 128 rows of a book that `tile`, in shared memory,
// holds. d[j]: what tensor_core.cuh says of columns 8j .. 8j + 7, of each warp's 16 rows.
// REQUIRES: four whole warps, the first a multiple of four, call it together.
template <int kDim>
__device__ __forceinline__ void MultiplyTile(const RowOperand<kDim>& rows, const uint8_t* tile,
                                             float (&d)[16][4]) {
  constexpr uint64_t kStrides =  // to the next 8 channels, to the next 8 rows; in 16 bytes
      uint64_t{kMatrixBytes / 16} << 16 | uint64_t{kDim} << 32;
  const uint64_t matrices = (SharedAddress(tile) & 0x3ffff) >> 4 | kStrides;
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    WarpgroupMultiplyAdd(d, rows.a[step], matrices + step * (2 * kMatrixBytes / 16), step != 0);
  }
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int j = 0; j < 16; ++j) {  // none of them is read before the wait
    asm volatile("" : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])::"memory");
  }
}

#else  // the same, each warp by itself

template <int kDim>
__device__ __forceinline__ void MultiplyTile(const RowOperand<kDim>& rows, const uint8_t* tile,
                                             float (&d)[16][4]) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const uint32_t matrices = SharedAddress(tile + BookBytes(8 * j, kDim)) + lane * 16;
#pragma unroll
    for (float& x : d[j]) x = 0.0f;
#pragma unroll
    for (int step = 0; step < kDim / 16; step += 2) {
      uint32_t b[4];
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                   : "r"(matrices + step * 2 * kMatrixBytes)
                   : "memory");
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t(&a)[4] = rows.a[step + i];
        MultiplyAdd(d[j], a[0], a[1], a[2], a[3], b[2 * i], b[2 * i + 1]);
      }
    }
  }
}

#endif

}  // namespace palimpsest::cuda
