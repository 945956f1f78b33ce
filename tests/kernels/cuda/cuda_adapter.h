// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <utility>
#include <vector>

#include "kernels/cpu/codec.h"
#include "kernels/cuda/attend.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/conformance/device_adapter.h"
#include "tests/kernels/cuda/gpu_test.h"
#include "tests/kernels/tolerances.h"

namespace palimpsest {

inline std::vector<uint16_t> ToBf16(absl::Span<const float> values) {
  std::vector<uint16_t> bits;
  bits.reserve(values.size());
  for (const float value : values) bits.push_back(FloatToBf16(value));
  return bits;
}
inline std::vector<float> FromBf16(absl::Span<const uint16_t> bits) {
  std::vector<float> values;
  values.reserve(bits.size());
  for (const uint16_t b : bits) values.push_back(Bf16ToFloat(b));
  return values;
}

class CudaAdapter final : public DeviceAdapter {
 public:
  bool supports(const CacheShape& shape) const override {
    return cuda::AttendSupports(shape.head_dim);
  }
  absl::StatusOr<std::unique_ptr<Backend>> NewBackend(const BackendConfig& config) override {
    return NewCudaBackend(config, {});
  }
  void* Upload(absl::Span<const float> values) override {
    buffers_.emplace_back(ToBf16(values));
    return buffers_.back().data();
  }
  std::vector<float> Download(const void* memory, size_t count) override {
    return FromBf16(DeviceArray<uint16_t>::ReadDevice(memory, count));
  }
  void Free(void* memory) override {
    std::erase_if(buffers_, [&](const auto& buffer) { return buffer.data() == memory; });
  }
  double attention_tolerance() const override { return kBf16KernelError; }
  double score_tolerance() const override { return kBf16ScoreError; }

 private:
  std::vector<DeviceArray<uint16_t>> buffers_;
};

}  // namespace palimpsest
