// SPDX-License-Identifier: Apache-2.0
// The few PTX instructions the kernels need by name, one function each.
#pragma once

#include <cstdint>

namespace palimpsest::cuda {

// D += A · B. A: 16 x 16 bf16 row-major, B: 16 x 8 bf16 column-major, D: 16 x 8 fp32, spread over
// the warp as PTX says for mma.m16n8k16: with g = lane / 4 and t = lane % 4,
//   a[0], a[2]: row g,     columns 2t, 2t + 1 and 2t + 8, 2t + 9;  a[1], a[3]: row g + 8
//   b[0], b[1]: column g,  rows    2t, 2t + 1 and 2t + 8, 2t + 9
//   d[0], d[1]: row g,     columns 2t, 2t + 1;                     d[2], d[3]: row g + 8
__device__ __forceinline__ void MultiplyAdd(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                            uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Transposes an 8 x 8 matrix of 16-bit elements: lane (g, t) gives row g, columns 2t and 2t + 1,
// and gets row g of the transpose.
__device__ __forceinline__ uint32_t Transpose8x8(uint32_t rows) {
  uint32_t columns;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(columns) : "r"(rows));
  return columns;
}

// {low, high} as two bf16, rounded to nearest even.
__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// (a & mask) ^ flip in one instruction: of two constants the compiler makes two.
__device__ __forceinline__ uint32_t MaskAndFlip(uint32_t a, uint32_t mask, uint32_t flip) {
  uint32_t bits;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(bits) : "r"(a), "r"(mask), "r"(flip));
  return bits;
}

// a · b + c of bf16 pairs, element by element, rounded once; subnormals count.
__device__ __forceinline__ uint32_t MultiplyAddBf16(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t sum;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
}
// Their product, written so that every architecture from sm_80 on has it.
__device__ __forceinline__ uint32_t MultiplyBf16(uint32_t a, uint32_t b) {
  return MultiplyAddBf16(a, b, 0x80008000u);
}

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace palimpsest::cuda
