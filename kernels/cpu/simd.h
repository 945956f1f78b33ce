// SPDX-License-Identifier: Apache-2.0
// Vectors without intrinsics: GCC's vector types, compiled once per x86-64 level and picked when
// the program starts. One source serves SSE2 machines and is at its best with AVX-512.
#pragma once

#include <cstdint>

// A function with KV_CPU_CLONES is compiled for each level below. Helpers it calls must be
// KV_ALWAYS_INLINE, so that they are compiled with it. Sanitizers are not yet up when the loader
// picks a version, and clang-14 (clang-tidy) cannot read the level names: both get the base
// version.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define KV_CPU_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define KV_CPU_CLONES
#endif
#define KV_ALWAYS_INLINE inline __attribute__((always_inline))

namespace palimpsest::simd {

inline constexpr int kWidth = 16;  // channels per vector = channels per scale = slots per page
using F32 = float __attribute__((vector_size(64)));
using I32 = int32_t __attribute__((vector_size(64)));
using U32 = uint32_t __attribute__((vector_size(64)));
using U16 = uint16_t __attribute__((vector_size(32)));
using U8 = uint8_t __attribute__((vector_size(16)));

template <typename V>
KV_ALWAYS_INLINE V Load(const void* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof(V));
  return v;
}
template <typename V>
KV_ALWAYS_INLINE void Store(const V& v, void* to) {
  __builtin_memcpy(to, &v, sizeof(V));
}

// table[index] in every lane; of an index only the low four bits count.
KV_ALWAYS_INLINE F32 LookUp(const F32& table, const I32& index) {
#if defined(__clang__)  // has no shuffle by a variable
  F32 out = {};
  for (int i = 0; i < kWidth; ++i) out[i] = table[index[i] & (kWidth - 1)];
  return out;
#else
  return __builtin_shuffle(table, index);
#endif
}

KV_ALWAYS_INLINE float Sum(const F32& x) {
  using F8 = float __attribute__((vector_size(32)));
  using F4 = float __attribute__((vector_size(16)));
  const F8 a = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
               __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  const F4 b =
      __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  return (b[0] + b[2]) + (b[1] + b[3]);
}

}  // namespace palimpsest::simd
