// SPDX-License-Identifier: Apache-2.0
// The pure part of `palimpsest calibrate` (ThinKV section 3; docs/calibration.md): from the
// attention sparsity of full-cache runs to the layers L* and the thresholds theta that tell kinds
// of thought apart. A model whose sparsity is not three-modal gets one class and a warning.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace palimpsest {

// One full-cache run on one prompt.
struct SparsityRun {
  std::vector<std::vector<float>> by_layer;  // [layers][steps], each in [0, 1]
};

struct CalibrationSettings {
  uint32_t layer_count = 4;       // |L*|
  double prominence = 0.05;       // of a peak, as a share of the density's maximum
  double share_min = 0.5;         // prompts with three modes that make a three-mode layer
  uint32_t grid_points = 513;     // of the density, over [0, 1]
  uint32_t histogram_bins = 128;  // over [0, 1]; divides grid_points - 1
  uint32_t steps_min = 16;        // shorter runs say nothing
  bool operator==(const CalibrationSettings&) const = default;
};

// How often each number of modes was seen: index 0 is one mode, 3 is four or more.
using ModeCounts = std::array<uint32_t, 4>;

struct LayerCalibration {
  double score = 0.0;             // three_mode_share x valley_depth
  double three_mode_share = 0.0;  // of the prompts
  double valley_depth = 0.0;      // mean over the three-mode prompts, in [0, 1]
  ModeCounts prompts_by_modes = {};
  std::vector<uint32_t> histogram;  // steps of all prompts, [histogram_bins]
  // Mean density over prompts at the edges of the bins, [histogram_bins + 1]; for the picture, so
  // rounded to 1e-4.
  std::vector<double> density;
  bool operator==(const LayerCalibration&) const = default;
};

struct Calibration {
  CalibrationSettings settings;
  uint32_t prompt_count = 0;
  std::vector<uint32_t> sparsity_layers;  // L*, rising; empty: one class
  std::vector<float> theta;               // two values, rising; empty: one class
  std::string warning;                    // for the user; empty when all went well
  std::vector<LayerCalibration> layers;   // every layer of the model
  bool operator==(const Calibration&) const = default;
};

// InvalidArgument names the setting, or the prompt, layer and step that are not as described.
absl::StatusOr<Calibration> Calibrate(absl::Span<const SparsityRun> runs,
                                      const CalibrationSettings& settings = {});

// Also for what was read from a file. InvalidArgument names the field and what is allowed.
absl::Status Validate(const CalibrationSettings& settings);
absl::Status Validate(const Calibration& calibration);

}  // namespace palimpsest
