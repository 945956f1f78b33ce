// SPDX-License-Identifier: Apache-2.0
// Whether keys are stored, and queries meet them, after a Hadamard transform of each head. It
// spreads the outliers of a few channels over all of them, and so halves what keys in fp8 or int4
// cost a language model (docs/likelihood.md). All chains of a backend are stored alike.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/decode/model/model_config.h"

namespace palimpsest {

enum class KeyRotation : uint8_t { kAuto, kOn, kOff };

// "auto", "on", "off".
absl::string_view Name(KeyRotation rotation);
// For a SettingsTable.
std::vector<std::pair<std::string, KeyRotation>> KeyRotationChoices();

// kAuto: where the heads can be rotated. InvalidArgument for kOn where they cannot.
absl::StatusOr<bool> RotatesKeys(KeyRotation wanted, const ModelConfig& config);

}  // namespace palimpsest
