// SPDX-License-Identifier: Apache-2.0
// A calibration on disk: versioned JSON, bound to one model by its fingerprint. The reader is
// strict, since a wrong theta does not fail, it only makes a model worse: unknown keys, another
// version, another model and values out of range are errors that name themselves.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/policy/calibration.h"

namespace palimpsest {

struct CalibrationFile {
  std::string model_fingerprint;  // what the model loader computes; 1 to 256 bytes
  Calibration calibration;
  bool operator==(const CalibrationFile&) const = default;
};

inline constexpr uint32_t kCalibrationVersion = 1;

std::string ToJson(const CalibrationFile& file);

// InvalidArgument for what is no calibration of this version, FailedPrecondition when it was made
// for another model. An empty `model_fingerprint` accepts any model (to draw the picture, say).
absl::StatusOr<CalibrationFile> ParseCalibration(absl::string_view json,
                                                 absl::string_view model_fingerprint);

// The same with a file. Errors of common/base/files.h; all name the path.
absl::Status SaveCalibration(const std::string& path, const CalibrationFile& file);
absl::StatusOr<CalibrationFile> LoadCalibration(const std::string& path,
                                                absl::string_view model_fingerprint);

}  // namespace palimpsest
