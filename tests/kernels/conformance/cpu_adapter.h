// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/conformance/device_adapter.h"
#include "tests/kernels/tolerances.h"

namespace palimpsest {

class CpuAdapter final : public DeviceAdapter {
 public:
  explicit CpuAdapter(int threads = 2) : threads_(threads) {}

  bool supports(const CacheShape&) const override { return true; }
  absl::StatusOr<std::unique_ptr<Backend>> NewBackend(const BackendConfig& config) override {
    return NewCpuBackend(config, threads_);
  }
  void* Upload(absl::Span<const float> values) override {
    buffers_.push_back(std::make_unique<std::vector<float>>(values.begin(), values.end()));
    return buffers_.back()->data();
  }
  std::vector<float> Download(const void* memory, size_t count) override {
    const auto* x = static_cast<const float*>(memory);
    return {x, x + count};
  }
  void Free(void* memory) override {
    std::erase_if(buffers_, [&](const auto& buffer) { return buffer->data() == memory; });
  }
  double attention_tolerance() const override { return kCpuKernelError; }
  double score_tolerance() const override { return kScoreError; }

 private:
  const int threads_;
  std::vector<std::unique_ptr<std::vector<float>>> buffers_;
};

}  // namespace palimpsest
