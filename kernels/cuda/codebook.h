// SPDX-License-Identifier: Apache-2.0
// A model's query codebook in device memory.
#pragma once

#include "absl/status/statusor.h"
#include "kernels/cuda/device_context.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/query_sources.h"
#include "kernels/query_codebook.h"

namespace palimpsest::cuda {

class Codebook {
 public:
  // None.
  Codebook() = default;
  // Copies `book` to the device, and waits for that. REQUIRES: it is of the pool's model.
  static absl::StatusOr<Codebook> Make(const DeviceContext& device, const QueryCodebook& book);

  const CodebookOnDevice& on_device() const { return on_device_; }

 private:
  DeviceBytes books_, inverse_frequencies_;
  CodebookOnDevice on_device_;
};

}  // namespace palimpsest::cuda
