// SPDX-License-Identifier: Apache-2.0
// PALIMPSEST_SIMD_CLONES: compiles a function for several instruction sets and picks one when the
// program starts, so that one portable binary uses AVX-512 where there is any. Plain under a
// sanitizer, whose runtime is not up yet when the picking happens.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define PALIMPSEST_SIMD_CLONES \
  __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define PALIMPSEST_SIMD_CLONES
#endif
