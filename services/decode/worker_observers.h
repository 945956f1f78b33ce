// SPDX-License-Identifier: Apache-2.0
// Turns what the engine and the store client tell into the worker's metrics and log.
#pragma once

#include <memory>

#include "common/base/log.h"
#include "common/base/metrics.h"
#include "services/decode/engine/snapshot.h"
#include "services/decode/store_client/store_client.h"

namespace palimpsest {

// `metrics` and `log` outlive the observers.
std::unique_ptr<EngineObserver> NewEngineMetrics(WorkerMetrics* metrics);
std::unique_ptr<StoreClientObserver> NewStoreClientMetrics(WorkerMetrics* metrics, Log* log);

}  // namespace palimpsest
