// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/key_rotation.h"

#include <bit>

#include "absl/strings/str_cat.h"

namespace palimpsest {

absl::string_view Name(KeyRotation rotation) {
  switch (rotation) {
    case KeyRotation::kAuto:
      return "auto";
    case KeyRotation::kOn:
      return "on";
    case KeyRotation::kOff:
      return "off";
  }
  return "";
}

std::vector<std::pair<std::string, KeyRotation>> KeyRotationChoices() {
  std::vector<std::pair<std::string, KeyRotation>> choices;
  for (const KeyRotation rotation : {KeyRotation::kAuto, KeyRotation::kOn, KeyRotation::kOff}) {
    choices.emplace_back(Name(rotation), rotation);
  }
  return choices;
}

absl::StatusOr<bool> RotatesKeys(KeyRotation wanted, const ModelConfig& config) {
  const bool possible = std::has_single_bit(static_cast<uint32_t>(config.head_dim));
  if (wanted == KeyRotation::kOn && !possible) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rotate_keys: on: heads of ", config.head_dim,
        " channels cannot be rotated, only of a power of two; allowed here: auto, off"));
  }
  return possible && wanted != KeyRotation::kOff;
}

}  // namespace palimpsest
