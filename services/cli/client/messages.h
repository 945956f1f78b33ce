// SPDX-License-Identifier: Apache-2.0
// The worker's protocol as plain values, for display and reports. What each field means is said
// once, in proto/decode.capnp.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/base/format.h"
#include "common/policy/policy_choice.h"
#include "common/rpc/messages.h"

namespace palimpsest::cli {

enum class StoreLink : uint8_t { kNone = 0, kConnecting = 1, kConnected = 2 };
enum class ChainEnd : uint8_t { kStop = 0, kLength = 1, kCancelled = 2, kError = 3, kLost = 4 };

// "stop", "length", ...: for reports.
constexpr absl::string_view Name(ChainEnd end) {
  constexpr std::array<absl::string_view, 5> kNames = {"stop", "length", "cancelled", "error",
                                                       "lost"};
  return kNames[static_cast<size_t>(end)];
}

struct ModelInfo {
  std::string family;
  std::string path;
  bool synthetic = false;
  uint32_t layers = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t vocab_size = 0;
  uint32_t max_positions = 0;  // 0: not told
};

struct PoolStatus {
  uint64_t capacity_bytes = 0;
  uint64_t used_bytes = 0;
  uint64_t page_bytes = 0;
  uint64_t footprint_bytes = 0;
  uint64_t full_bytes = 0;
  std::array<uint64_t, kFormatCount> pages_by_format{};
  uint64_t used_byte_steps = 0;
  uint64_t full_byte_steps = 0;
};

struct ChainStatus {
  uint64_t request = 0;
  std::string tenant;
  std::string policy;
  uint32_t budget_tokens = 0;
  uint32_t tokens = 0;
  uint32_t prompt_tokens = 0;
  uint32_t live_tokens = 0;
  uint64_t footprint_bytes = 0;
  uint64_t full_bytes = 0;
  std::string timeline;
  std::string label;
};

struct WorkerStatus {
  std::string name;
  std::string version;
  double uptime_seconds = 0;
  ModelInfo model;
  StoreLink store = StoreLink::kNone;
  std::string store_endpoint;
  bool lockstep = false;
  bool draining = false;
  uint32_t running = 0;
  uint32_t waiting = 0;
  uint64_t tokens_decoded = 0;
  uint64_t tokens_prefilled = 0;
  uint64_t steps = 0;
  double decode_seconds = 0;
  PoolStatus pool;
  std::vector<ChainStatus> chains;
  uint64_t reregistrations = 0;
  std::optional<PolicySpec> default_policy;  // older workers do not tell
  bool keys_rotated = false;
};

// How tokens are drawn. Temperature 0 is greedy, and what is below it then means nothing.
struct Sampling {
  float temperature = 0;
  uint32_t top_k = 0;  // 0: no limit
  float top_p = 1;
  float min_p = 0;
  uint64_t seed = 0;
};

struct ChainRequest {
  std::string tenant = {};  // empty: "default"
  std::vector<int32_t> prompt = {};
  uint32_t max_new_tokens = 0;
  Sampling sampling = {};
  PolicyChoice policy = {};  // what it leaves out is the tenant's or the worker's
};

struct ChainAdmission {
  bool admitted = false;
  uint64_t request = 0;
  Refusal refusal;
};

struct ChainStats {
  uint32_t prompt_tokens = 0;
  uint32_t new_tokens = 0;
  uint64_t footprint_byte_steps = 0;
  uint64_t full_byte_steps = 0;
  uint64_t footprint_bytes_peak = 0;
  uint64_t full_bytes_end = 0;
  uint32_t plans_applied = 0;
  uint32_t plans_local = 0;
  double plan_lag_seconds_sum = 0;
  double plan_lag_seconds_max = 0;
  uint32_t plan_lag_tokens_max = 0;
  uint32_t pressure_reliefs = 0;
  uint64_t plan_hash = 0;
  std::string timeline;
  uint64_t live_token_steps = 0;
  uint32_t live_tokens_peak = 0;
  uint32_t steps = 0;
};

struct ChainEvent {
  uint64_t request = 0;
  std::vector<int32_t> tokens;
  bool finished = false;
  ChainEnd end = ChainEnd::kStop;
  Refusal error;
  ChainStats stats;
};

}  // namespace palimpsest::cli
