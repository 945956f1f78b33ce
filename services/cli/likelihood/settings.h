// SPDX-License-Identifier: Apache-2.0
// What can be asked of `palimpsest likelihood`.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/settings.h"
#include "services/cli/grid/points.h"
#include "services/decode/device/device.h"

namespace palimpsest::cli {

enum class LikelihoodFormat : uint8_t { kTable, kJson };

struct LikelihoodSettings {
  std::string model;
  std::vector<std::string> texts;  // empty: the shipped ones
  uint32_t text_tokens = 4096;
  uint32_t prompt_tokens = 32;
  uint32_t every = 1;
  GridChoice grid{.policy = {"window", "random", "thinkv"},
                  .budget = {},
                  .bytes = {},
                  .windows = {},
                  .formats = {}};
  std::string codebook;
  std::string calibration;
  bool rotate_keys = false;
  DeviceChoice device;
  uint32_t threads = 0;
  uint32_t batch = 64;
  uint64_t pool_bytes = 0;
  std::string results;
  bool run = true;
  std::string picture;
  std::string machine;
  LikelihoodFormat format = LikelihoodFormat::kTable;
  bool quiet = false;
};

// `settings` outlives the table.
std::unique_ptr<SettingsTable> NewLikelihoodTable(LikelihoodSettings* settings);

}  // namespace palimpsest::cli
