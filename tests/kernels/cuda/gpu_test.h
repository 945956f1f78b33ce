// SPDX-License-Identifier: Apache-2.0
// What every test on a GPU starts from: a reason to skip where there is none, and device memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/check.h"
#include "gtest/gtest.h"
#include "kernels/cuda/device_memory.h"

namespace palimpsest {

// OK where there is a GPU to test on, or why there is none.
inline absl::Status GpuStatus() {
  int count = 0;
  return cuda::ToStatus(cudaGetDeviceCount(&count), "look for a GPU");
}

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::Status status = GpuStatus();
    if (!status.ok()) GTEST_SKIP() << status.message();
  }
};

// An array in device memory, copied whole. Waits for the device; a test may.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    void* p = nullptr;
    KV_CHECK(cudaMalloc(&p, count * sizeof(T) + 1) == cudaSuccess);
    bytes_.reset(static_cast<uint8_t*>(p));
    KV_CHECK(cudaMemset(p, 0, count * sizeof(T)) == cudaSuccess);
    KV_CHECK(cudaDeviceSynchronize() == cudaSuccess);
  }
  explicit DeviceArray(absl::Span<const T> values) : DeviceArray(values.size()) { Write(values); }

  T* data() const { return reinterpret_cast<T*>(bytes_.get()); }
  void Write(absl::Span<const T> values) const {
    KV_CHECK(values.size() <= count_);
    KV_CHECK(cudaMemcpy(data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice) ==
             cudaSuccess);
    // A small copy may return while its bytes are still on their way, and a backend's stream does
    // not wait for the default one.
    KV_CHECK(cudaDeviceSynchronize() == cudaSuccess);
  }
  std::vector<T> Read() const { return ReadDevice(data(), count_); }

  static std::vector<T> ReadDevice(const void* from, size_t count) {
    std::vector<T> values(count);
    KV_CHECK(cudaMemcpy(values.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost) ==
             cudaSuccess);
    return values;
  }

 private:
  size_t count_;
  cuda::DeviceBytes bytes_;
};

}  // namespace palimpsest
