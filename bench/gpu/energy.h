// SPDX-License-Identifier: Apache-2.0
// Joules the GPU has drawn, as its driver counts them.
#pragma once

#include <memory>
#include <optional>

namespace palimpsest::bench {

class EnergyMeter {
 public:
  virtual ~EnergyMeter() = default;
  // Since some time in the past; nothing where it cannot be read.
  virtual std::optional<double> Joules() = 0;
};

// Of the first GPU. Where NVML or its counter is missing, a meter that reads nothing.
std::unique_ptr<EnergyMeter> NewEnergyMeter();

}  // namespace palimpsest::bench
