// SPDX-License-Identifier: Apache-2.0
// A small program's settings with every kind in it, for the tests of the readers.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/base/format.h"
#include "common/base/settings.h"

namespace palimpsest {

struct SampleSettings {
  enum class Mode { kAsync, kLockstep };

  Endpoint listen{.host = "127.0.0.1", .port = 7400};
  uint64_t pool_size_bytes = 512ull << 20;
  std::chrono::nanoseconds heartbeat_interval = std::chrono::milliseconds(500);
  std::chrono::nanoseconds lease_length = std::chrono::milliseconds(1500);
  uint32_t threads = 2;
  double temperature = 0.0;
  bool verify = false;
  std::string model = "lab/reasoner/model";
  Mode mode = Mode::kAsync;
  std::vector<std::string> policies = {"full", "thinkv"};
  ClassFormats formats = ClassFormats::R4E4T2();
  struct Quota {
    uint64_t bytes = 0;
    std::string owner;
    bool operator==(const Quota&) const = default;
  };
  std::map<std::string, Quota> quotas;
};

inline absl::Status SetQuota(SampleSettings::Quota* quota, const std::string& field,
                             const std::string& value) {
  if (field == "owner") {
    quota->owner = value;
    return absl::OkStatus();
  }
  const absl::StatusOr<uint64_t> bytes = ParseBytes(value);
  if (bytes.ok()) quota->bytes = *bytes;
  return bytes.status();
}

inline std::map<std::string, std::string> ShowQuota(const SampleSettings::Quota& quota) {
  return {{"bytes", FormatBytes(quota.bytes)}, {"owner", quota.owner}};
}

// Fills `table` with rows for `s`, which must outlive it.
inline void AddSampleSettings(SettingsTable* table, SampleSettings* s) {
  using std::chrono::milliseconds;
  using std::chrono::minutes;
  table->Section("Network");
  table->Address("listen", &s->listen, "Where workers connect.");
  table->Duration("heartbeat_interval", &s->heartbeat_interval, {milliseconds(10), minutes(1)},
                  {"How often each side says that it is there.", "250ms"});
  table->Duration("lease_length", &s->lease_length, {milliseconds(30), minutes(3)},
                  "Silence after which a peer is given up.");
  table->Section("Memory");
  table->Bytes("pool_size_bytes", &s->pool_size_bytes, {1 << 20, 1ull << 40},
               {"Size of the page pool.", "2GiB"});
  table->Section("Model");
  table->Integer("threads", &s->threads, {1, 256}, "Threads of the CPU backend.");
  table->Real("temperature", &s->temperature, {0, 2}, "Sampling temperature; 0 is greedy.");
  table->Switch("verify", &s->verify, "Check every page by its sum.");
  table->Text("model", &s->model, "Folder of the model.");
  table->Choice<SampleSettings::Mode>(
      "mode", &s->mode,
      {{"async", SampleSettings::Mode::kAsync}, {"lockstep", SampleSettings::Mode::kLockstep}},
      "Whether a step waits for its plan.");
  table->List("policies", &s->policies, {1, 4}, "Policies to compare.");
  table->Parsed(
      "formats", &s->formats, ParseClassFormats,
      [](const ClassFormats& formats) { return ToString(formats); }, "Formats by class.");
  table->Map("quotas", &s->quotas, {"bytes", "owner"}, SetQuota, ShowQuota,
             {"What each may take.", "{acme: {bytes: 2GiB}}"});
  table->Conflict(
      {"lease_length", "heartbeat_interval"},
      [s] { return s->lease_length < 3 * s->heartbeat_interval; },
      "a lease must be at least three heartbeats long");
  table->Example("--pool-size-bytes 2GiB --mode lockstep", "A shard for exact tests.");
}

}  // namespace palimpsest
