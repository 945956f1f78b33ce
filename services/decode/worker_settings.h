// SPDX-License-Identifier: Apache-2.0
// What can be set on a decode worker.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/log.h"
#include "common/base/settings.h"
#include "common/policy/policy_choice.h"
#include "services/decode/device/device.h"
#include "services/decode/model/key_rotation.h"
#include "services/decode/policy_defaults.h"

namespace palimpsest {

struct WorkerSettings {
  std::string model;
  std::string synthetic_weights;  // a known shape; empty: the model's own weights
  DeviceChoice device;
  KeyRotation rotate_keys = KeyRotation::kAuto;
  std::string calibration;
  std::string codebook;
  std::vector<std::string> policies;  // empty: those that take no memory of their own
  PolicyChoice default_policy;        // without a name: the best that is served
  TenantChoices tenants;
  Endpoint listen{.host = "127.0.0.1", .port = 7501};
  Endpoint metrics_listen{.host = "127.0.0.1", .port = 7502};
  std::string store;  // host:port; empty: none
  std::string name = "worker";
  std::string credential;
  std::chrono::nanoseconds heartbeat = std::chrono::seconds(1);
  uint64_t pool_bytes = 1ull << 30;
  uint32_t batch_max = 32;
  uint32_t waiting_max = 1024;
  uint32_t rows_max = 512;
  uint32_t threads = 0;  // 0: all cores
  bool lockstep = false;
  std::chrono::nanoseconds lockstep_deadline = std::chrono::seconds(2);
  std::chrono::nanoseconds drain_timeout = std::chrono::seconds(60);
  LogOptions log{.program = "palimpsest-decode"};
};

// `settings` outlives the table.
std::unique_ptr<SettingsTable> NewWorkerSettingsTable(WorkerSettings* settings);

}  // namespace palimpsest
