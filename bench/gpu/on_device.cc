// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/on_device.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <string>

#include "kernels/cuda/device_memory.h"

namespace palimpsest::bench {

int OnDevice(const char* program, const std::function<absl::StatusOr<int>()>& run) {
  constexpr int kSkipped = 77;
  int devices = 0;
  const absl::Status found = cuda::ToStatus(cudaGetDeviceCount(&devices), "there is no GPU");
  if (!found.ok()) {
    std::fprintf(stderr, "%s: skipped: %s\n", program, std::string(found.message()).c_str());
    return kSkipped;
  }
  const absl::StatusOr<int> code = run();
  if (code.ok()) return *code;
  std::fprintf(stderr, "%s: %s\n", program, code.status().ToString().c_str());
  return 1;
}

}  // namespace palimpsest::bench
