// SPDX-License-Identifier: Apache-2.0
// What a test must know about a backend to drive it: how to make it, and how to get activations in
// and out of its memory.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"

namespace palimpsest {

class DeviceAdapter {
 public:
  virtual ~DeviceAdapter() = default;

  // False for shapes the backend has no kernels for: their tests are skipped.
  virtual bool supports(const CacheShape& shape) const = 0;

  virtual absl::StatusOr<std::unique_ptr<Backend>> NewBackend(const BackendConfig& config) = 0;

  // Memory of `values.size()` activations in the backend's space and element type, holding
  // `values`. Owned by the adapter until Free. Tests pass numbers that bf16 holds exactly.
  virtual void* Upload(absl::Span<const float> values) = 0;
  virtual std::vector<float> Download(const void* memory, size_t count) = 0;
  virtual void Free(void* memory) = 0;

  // How far an output may be off, as a share of the largest value attended to: the backend's own
  // arithmetic and the rounding of its activation type (tolerances.h).
  virtual double attention_tolerance() const = 0;
  // Of the attention that a slot received, as a share of it.
  virtual double score_tolerance() const = 0;
};

using NewAdapter = std::unique_ptr<DeviceAdapter> (*)();

}  // namespace palimpsest
