// SPDX-License-Identifier: Apache-2.0
// Turns what the server tells into the shard's metrics, log and probes.
#pragma once

#include <atomic>
#include <memory>

#include "common/base/health_server.h"
#include "common/base/log.h"
#include "common/base/metrics.h"
#include "services/kvstore/server.h"

namespace palimpsest {

class StoreObserver : public StoreServerObserver {
 public:
  // From now on each tick keeps the process alive in /livez. Any thread.
  virtual void SetHealth(HealthServer* health) = 0;
  // For /statusz. Any thread.
  virtual uint64_t sequences() const = 0;
  virtual uint64_t sessions() const = 0;
};

// `metrics` and `log` outlive it.
std::unique_ptr<StoreObserver> NewStoreObserver(StoreMetrics* metrics, Log* log);

}  // namespace palimpsest
