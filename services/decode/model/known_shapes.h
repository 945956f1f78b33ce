// SPDX-License-Identifier: Apache-2.0
// The shapes of some published models, to run them at full size with random weights: speed depends
// on shapes alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/decode/model/model_config.h"

namespace palimpsest {

// "llama-3-8b", "qwen2.5-1.5b", ...
std::vector<std::string> KnownShapeNames();

// The config of that name, without ids that end a text: what random weights say never means to.
// InvalidArgument lists the names.
absl::StatusOr<ModelConfig> KnownShape(absl::string_view name);

// Weights of a model of this shape; an embedding that is the head too counts once.
uint64_t ParameterCount(const ModelConfig& config);

}  // namespace palimpsest
