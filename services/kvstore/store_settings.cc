// SPDX-License-Identifier: Apache-2.0
#include "services/kvstore/store_settings.h"

#include "common/base/limits.h"

namespace palimpsest {

std::unique_ptr<SettingsTable> NewStoreSettingsTable(StoreSettings* settings) {
  using std::chrono::milliseconds;
  using std::chrono::minutes;
  using std::chrono::seconds;
  auto table = std::make_unique<SettingsTable>(
      "palimpsest-kvstore", "One shard of the store: classifies thoughts and plans for workers.");

  table->Section("Network");
  table->Address("listen", &settings->listen, {"Where workers connect.", "0.0.0.0:7401"});
  table->Address("metrics_listen", &settings->metrics_listen,
                 {"Where /metrics and the probes are.", "127.0.0.1:7402"});
  table->Text("credential", &settings->credential,
              "What a worker must show; empty: nothing, which is for loopback only.");
  table->Integer("connections_max", &settings->connections_max, {1, limits::kConnectionsMax},
                 "Open connections; more are closed at once.");
  table->Duration("heartbeat", &settings->heartbeat, {milliseconds(10), seconds(60)},
                  "The shortest interval agreed to; three silent ones end a session.");

  table->Section("Sequences");
  table->Integer("epoch", &settings->epoch, {0, int64_t{1} << 62},
                 "Under which the partitions are owned, never lower than before; 0: the second of "
                 "the start.");
  table->Integer("sequences_max", &settings->sequences_max, {1, int64_t{1} << 24},
                 "Sequences at a time; more are refused with a time to try again.");
  table->Integer("unacknowledged_plans_max", &settings->unacknowledged_plans_max, {1, 64},
                 "Plans of a sequence under way; later ones wait and are merged.");

  table->Section("Process");
  table->Duration("drain_timeout", &settings->drain_timeout, {milliseconds(0), minutes(60)},
                  "How long SIGTERM waits for running sequences to finish.");
  AddLogSettings(table.get(), &settings->log);
  table->Example("--listen 127.0.0.1:0 --log-level debug", "any free port, printed at start");
  return table;
}

}  // namespace palimpsest
