// SPDX-License-Identifier: Apache-2.0
// Gives the device what PretendBackend has kept book of: pages with the recorded positions and live
// masks and random valid content, and random open groups.
#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "bench/fleet/pretend_backend.h"
#include "kernels/cuda/step_tables.h"

namespace palimpsest::bench {

// Writes the pages of every record that has any. Waits for `stream`. Unimplemented for a pool with
// scores of slots or residues: what a past would have left there isn't pretended.
absl::Status WritePages(const cuda::DevicePool& pool, const PretendBackend& recorded,
                        uint32_t open_groups, cudaStream_t stream);

}  // namespace palimpsest::bench
