// SPDX-License-Identifier: Apache-2.0
// What can be asked of `palimpsest calibrate`, and which problems that means.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/settings.h"
#include "services/cli/demo/settings.h"
#include "services/decode/device/device.h"

namespace palimpsest::cli {

struct CalibrateSettings {
  std::string model;
  std::string problems = "16";
  std::vector<std::string> texts;  // instead of problems
  std::string out = "calibration.json";
  std::string codebook;   // empty: queries.safetensors beside `out`
  std::string shares_of;  // a codebook that only gets shares of lanes
  DeviceChoice device;
  uint32_t every = 4;
  uint32_t first_step = 64;
  uint32_t query_samples = 12'288;
  uint32_t codebook_queries = 256;
  uint32_t share_tokens = 4096;
  uint32_t max_new_tokens = 0;
  uint32_t batch = 16;
  uint32_t threads = 0;
  bool quiet = false;
};

// `settings` outlives the table.
std::unique_ptr<SettingsTable> NewCalibrateSettingsTable(CalibrateSettings* settings);

// A number: the first problems made for calibration, with chains of all lengths. Else a file,
// whole. InvalidArgument names the flag and what is allowed.
absl::StatusOr<ProblemSet> ChooseCalibrationProblems(const std::string& problems);

// Where the codebook goes: where --codebook says, else beside `out`; with shares_of, `out` itself.
std::string CodebookPath(const CalibrateSettings& settings);

}  // namespace palimpsest::cli
