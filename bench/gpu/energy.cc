// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/energy.h"

#include <dlfcn.h>

namespace palimpsest::bench {
namespace {

// NVML comes with the driver and its header need not be there: the three calls are looked up.
using Handle = struct NvmlDevice*;
using Init = int (*)();
using GetHandle = int (*)(unsigned int, Handle*);
using GetEnergy = int (*)(Handle, unsigned long long*);  // NOLINT(runtime/int): NVML's

class NvmlMeter final : public EnergyMeter {
 public:
  NvmlMeter() {
    void* const library = ::dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (library == nullptr) return;
    const auto init = reinterpret_cast<Init>(::dlsym(library, "nvmlInit_v2"));
    const auto get_handle =
        reinterpret_cast<GetHandle>(::dlsym(library, "nvmlDeviceGetHandleByIndex_v2"));
    get_energy_ =
        reinterpret_cast<GetEnergy>(::dlsym(library, "nvmlDeviceGetTotalEnergyConsumption"));
    if (init == nullptr || get_handle == nullptr || init() != 0 || get_handle(0, &handle_) != 0) {
      get_energy_ = nullptr;
    }
  }

  std::optional<double> Joules() override {
    unsigned long long millijoules = 0;  // NOLINT(runtime/int): NVML's
    if (get_energy_ == nullptr || get_energy_(handle_, &millijoules) != 0) return std::nullopt;
    return static_cast<double>(millijoules) * 1e-3;
  }

 private:
  GetEnergy get_energy_ = nullptr;
  Handle handle_ = nullptr;
};

}  // namespace

std::unique_ptr<EnergyMeter> NewEnergyMeter() { return std::make_unique<NvmlMeter>(); }

}  // namespace palimpsest::bench
