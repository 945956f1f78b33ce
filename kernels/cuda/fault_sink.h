// SPDX-License-Identifier: Apache-2.0
// What a kernel says when it meets what the host could not know.
#pragma once

#include <cstdint>

#include "common/base/thought.h"

namespace palimpsest::cuda {

enum class FaultKind : uint32_t {
  kNone = 0,
  kTooFewDeadSlots,  // sequence, thought, layer, kv_head; `found` dead slots for `needed` tokens
  kNotFinite,        // sequence, layer: a NaN in K or V, or a q that is not finite
  kPosition,         // sequence; position `needed` in a RoPE table of `found`
};

struct Fault {
  FaultKind kind = FaultKind::kNone;
  uint32_t sequence = 0;
  uint32_t thought = 0;
  uint32_t layer = 0;
  uint32_t kv_head = 0;
  uint32_t found = 0;
  uint32_t needed = 0;
};

// By value to every kernel that can meet a fault. Only the first since the last Synchronize is
// written; `fault` is host memory, so that Synchronize needs no copy.
struct FaultSink {
  uint32_t* raised = nullptr;
  Fault* fault = nullptr;

#ifdef __CUDACC__
  __device__ void Raise(const Fault& what) const {
    if (atomicExch(raised, 1u) == 0) *fault = what;
  }
#endif
};

}  // namespace palimpsest::cuda
