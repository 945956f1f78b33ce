// SPDX-License-Identifier: Apache-2.0
// What can be set on a store shard.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "common/base/log.h"
#include "common/base/settings.h"

namespace palimpsest {

struct StoreSettings {
  Endpoint listen{.host = "127.0.0.1", .port = 7401};
  Endpoint metrics_listen{.host = "127.0.0.1", .port = 7402};
  std::string credential;
  uint32_t connections_max = 256;
  std::chrono::nanoseconds heartbeat = std::chrono::seconds(1);
  uint64_t epoch = 0;  // 0: the second of the start
  uint32_t sequences_max = 65536;
  uint32_t unacknowledged_plans_max = 8;
  std::chrono::nanoseconds drain_timeout = std::chrono::seconds(5);
  LogOptions log{.program = "palimpsest-kvstore"};
};

// `settings` outlives the table.
std::unique_ptr<SettingsTable> NewStoreSettingsTable(StoreSettings* settings);

}  // namespace palimpsest
