// SPDX-License-Identifier: Apache-2.0
// The CUDA backend and the CPU one, driven alike, so that their bytes can be compared.
#pragma once

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/cuda/cuda_adapter.h"

namespace palimpsest {

class BackendPair {
 public:
  explicit BackendPair(const BackendConfig& config, const CudaOptions& options = {})
      : config_(config) {
    auto on_gpu = NewCudaBackend(config, options);
    KV_CHECK(on_gpu.ok());
    gpu_ = *std::move(on_gpu);
    auto on_cpu = NewCpuBackend(config, 2);
    KV_CHECK(on_cpu.ok());
    cpu_ = *std::move(on_cpu);
  }

  CudaBackend& gpu() { return *gpu_; }
  Backend& cpu() { return *cpu_; }
  const CacheShape& shape() const { return config_.shape; }

  // Appends `k` and `v` ([rows, kv_heads, head_dim], exact in bf16) to `layer` of the step's rows.
  void Append(int layer, const std::vector<float>& k, const std::vector<float>& v) {
    const DeviceArray<uint16_t> gpu_k(ToBf16(k)), gpu_v(ToBf16(v));
    EXPECT_EQ(cpu_->Append(layer, {.k = k.data(), .v = v.data()}), absl::OkStatus());
    EXPECT_EQ(gpu_->Append(layer, {.k = gpu_k.data(), .v = gpu_v.data()}), absl::OkStatus());
    EXPECT_EQ(gpu_->Synchronize(), absl::OkStatus());
  }

  // Does the same on both; both must succeed.
  template <typename Call>
  void OnBoth(const Call& call) {
    EXPECT_EQ(call(*cpu_), absl::OkStatus());
    EXPECT_EQ(call(*gpu_), absl::OkStatus());
    EXPECT_EQ(gpu_->Synchronize(), absl::OkStatus());
  }

  static std::vector<uint8_t> Bytes(Backend& backend, PageOffset offset, size_t count) {
    std::vector<uint8_t> bytes(count);
    KV_CHECK(backend.Read(offset, absl::MakeSpan(bytes)).ok());
    KV_CHECK(backend.Synchronize().ok());
    return bytes;
  }

  // Compares `count` pool bytes.
  void ExpectEqualBytes(PageOffset offset, size_t count) {
    const auto cpu = Bytes(*cpu_, offset, count), gpu = Bytes(*gpu_, offset, count);
    const auto [a, b] = std::mismatch(cpu.begin(), cpu.end(), gpu.begin());
    ASSERT_TRUE(a == cpu.end()) << "byte " << a - cpu.begin() << " of the page is "
                                << static_cast<int>(*a) << " on the CPU and "
                                << static_cast<int>(*b) << " on the GPU";
  }

 private:
  const BackendConfig config_;
  std::unique_ptr<CudaBackend> gpu_;
  std::unique_ptr<Backend> cpu_;
};

}  // namespace palimpsest
