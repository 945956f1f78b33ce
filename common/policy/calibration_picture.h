// SPDX-License-Identifier: Apache-2.0
// The picture of a calibration: for each layer of L* the histogram, the density and the
// thresholds, with E, R and T in their colours; without L*, the layers that came nearest.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "common/policy/calibration.h"

namespace palimpsest {

// A whole SVG document. `model` is shown in the title, escaped.
// REQUIRES: Validate(calibration) is OK.
std::string DrawCalibration(const Calibration& calibration, absl::string_view model);

}  // namespace palimpsest
