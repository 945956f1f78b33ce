// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/device_line.h"

#include <cuda_runtime_api.h>

#include <cmath>
#include <string>

#include "common/base/build_info.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/device_memory.h"

namespace palimpsest::bench {

absl::StatusOr<nlohmann::ordered_json> DeviceLine(absl::string_view bench,
                                                  const Ceilings& ceilings) {
  cudaDeviceProp device{};
  int driver = 0, runtime = 0;
  KV_RETURN_IF_ERROR(cuda::ToStatus(cudaGetDeviceProperties(&device, 0), "the device"));
  KV_RETURN_IF_ERROR(cuda::ToStatus(cudaDriverGetVersion(&driver), "the driver"));
  KV_RETURN_IF_ERROR(cuda::ToStatus(cudaRuntimeGetVersion(&runtime), "the CUDA runtime"));
  return nlohmann::ordered_json{{"bench", std::string(bench)},
                                {"device", device.name},
                                {"multiprocessors", device.multiProcessorCount},
                                {"memory_gib", Rounded(device.totalGlobalMem / 1073741824.0, 3)},
                                {"cuda", runtime},
                                {"driver_cuda", driver},
                                {"commit", std::string(BuildCommit())},
                                {"copy_gbps", Rounded(ceilings.copy_gbps, 4)},
                                {"read_gbps", Rounded(ceilings.read_gbps, 4)}};
}

double Rounded(double value, int digits) {
  if (value == 0 || !std::isfinite(value)) return value;
  const double unit = std::pow(10.0, digits - 1 - std::floor(std::log10(std::fabs(value))));
  return std::round(value * unit) / unit;
}

}  // namespace palimpsest::bench
