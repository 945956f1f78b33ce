// SPDX-License-Identifier: Apache-2.0
// Models that compute on the CPU, in float, with oneDNN's matrix products.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/task_team.h"
#include "services/decode/model/model.h"

namespace palimpsest {

struct CpuModelOptions {
  int threads = 1;          // of the model's own team, where `team` is null
  int rows_max = 512;       // tokens a step may add, all sequences together
  int logit_rows_max = 64;  // rows a step may want logits of
  // Shares the work; give the same one to the backend, since two teams get in each other's way.
  std::shared_ptr<TaskTeam> team = nullptr;
};

// Loads a Hugging Face folder (config.json, safetensors). NotFound or InvalidArgument names the
// file, key or tensor at fault.
absl::StatusOr<std::unique_ptr<Model>> NewCpuModel(const std::string& folder,
                                                   const CpuModelOptions& options);

// A model of the given shape with random weights: for performance work only. What it says means
// nothing. The same config and seed give the same weights.
absl::StatusOr<std::unique_ptr<Model>> NewSyntheticCpuModel(const ModelConfig& config,
                                                            uint64_t seed,
                                                            const CpuModelOptions& options);

}  // namespace palimpsest
