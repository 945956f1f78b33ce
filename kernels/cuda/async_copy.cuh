// SPDX-License-Identifier: Apache-2.0
// Copies from device to shared memory that finish on an mbarrier, issued by one warp. On sm_90 and
// later the bulk copy engine moves a whole lane of a page with one instruction; before that every
// thread of the warp copies its share in 16-byte pieces.
#pragma once

#include <cstdint>

namespace palimpsest::cuda {

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
inline constexpr uint32_t kCopyArrivals = 32;
#else
inline constexpr uint32_t kCopyArrivals = 1;
#endif

// One thread. The barrier counts copies: phase 0 ends when the first is complete.
__device__ __forceinline__ void InitBarrier(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
               "r"(kCopyArrivals)
               : "memory");
}

// One thread. A barrier that `arrivals` calls of ArriveBarrier complete.
__device__ __forceinline__ void InitBarrier(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(arrivals)
               : "memory");
}

__device__ __forceinline__ void ArriveBarrier(uint64_t* barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(
                   SharedAddress(barrier))
               : "memory");
}

// After all InitBarrier of a thread, before any copy: makes them visible to the copy engine.
__device__ __forceinline__ void FenceBarriers() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// What tells the L2 cache that the bytes of a copy are the first to go.
__device__ __forceinline__ uint64_t ReadOncePolicy() {
  uint64_t policy = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#endif
  return policy;
}

// The whole warp. `bytes`, both addresses: multiples of 16. Before sm_90 the policy is not heeded.
__device__ __forceinline__ void CopyAsync(uint8_t* shared, const uint8_t* global, uint32_t bytes,
                                          uint64_t* barrier, uint32_t lane,
                                          [[maybe_unused]] uint64_t policy) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n.reg .pred elected;\n"
      "elect.sync _|elected, 0xffffffff;\n"
      "@elected mbarrier.arrive.expect_tx.shared.b64 _, [%3], %2;\n"
      "@elected cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;\n}" ::"r"(SharedAddress(shared)),
      "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(SharedAddress(barrier)), "l"(policy)
      : "memory");
#else
  for (uint32_t at = lane * 16; at < bytes; at += 32 * 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(SharedAddress(shared + at)),
                 "l"(__cvta_generic_to_global(global + at))
                 : "memory");
  }
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(SharedAddress(barrier))
               : "memory");
#endif
}

// What one of several copies that finish together copies.
struct AsyncPart {
  uint8_t* shared = nullptr;
  const uint8_t* global = nullptr;
  uint32_t bytes = 0;
};

// CopyAsync of several parts, on one barrier.
template <int kParts>
__device__ __forceinline__ void CopyAsync(const AsyncPart (&parts)[kParts], uint64_t* barrier,
                                          uint32_t lane) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (lane == 0) {
    uint32_t bytes = 0;
#pragma unroll
    for (const AsyncPart& part : parts) bytes += part.bytes;
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
                 "r"(bytes)
                 : "memory");
#pragma unroll
    for (const AsyncPart& part : parts) {
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
          "[%3];" ::"r"(SharedAddress(part.shared)),
          "l"(__cvta_generic_to_global(part.global)), "r"(part.bytes), "r"(SharedAddress(barrier))
          : "memory");
    }
  }
  __syncwarp();
#else
#pragma unroll
  for (const AsyncPart& part : parts) {
    for (uint32_t at = lane * 16; at < part.bytes; at += 32 * 16) {
      asm volatile(
          "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(SharedAddress(part.shared + at)),
          "l"(__cvta_generic_to_global(part.global + at))
          : "memory");
    }
  }
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(SharedAddress(barrier))
               : "memory");
#endif
}

// Waits until the barrier's phase of this parity is over.
__device__ __forceinline__ void WaitBarrier(uint64_t* barrier, uint32_t parity) {
  uint32_t done;
  do {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(SharedAddress(barrier)), "r"(parity)
        : "memory");
#else
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(SharedAddress(barrier)), "r"(parity)
        : "memory");
#endif
  } while (done == 0);
}

}  // namespace palimpsest::cuda
