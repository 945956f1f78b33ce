// SPDX-License-Identifier: Apache-2.0
// What an evaluation keeps: one record a chain, and what they all have in common. Plain values, and
// their JSON.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "services/cli/client/messages.h"
#include "services/cli/grid/points.h"

namespace palimpsest::cli {

// What all records of a file have in common. Records of another one do not belong beside them.
struct EvalHeader {
  // Compared.
  std::string model_fingerprint;
  std::string problems_hash;
  uint32_t problems = 0;
  uint32_t samples = 1;
  Sampling sampling;
  uint32_t max_new_tokens = 0;  // 0: a quarter beyond the reference
  std::string answer;           // where the answer stands; empty for Countdown
  bool store = false;
  bool lockstep = false;
  bool keys_rotated = false;
  // Told.
  std::string model;
  std::string family;
  bool synthetic = false;
  std::string problem_source;
  std::string commit;
  std::string machine;
};

// How a chain stood at a look at it.
struct ChainMoment {
  uint32_t tokens = 0;
  uint32_t live_tokens = 0;
  uint64_t footprint_bytes = 0;
};

struct ChainRecord {
  std::string point;    // GridPoint::Key
  std::string problem;  // its id
  uint32_t sample = 0;
  bool right = false;
  std::string verdict;
  std::string answer;  // found in the text; empty for Countdown
  ChainEnd end = ChainEnd::kLost;
  bool loops = false;         // EndsInALoop
  uint32_t tokens = 0;        // generated
  uint64_t tokens_hash = 0;   // of them
  double decode_seconds = 0;  // from its first token to its last
  ChainStats stats;
  // Of the chain that is pictured.
  std::vector<ChainMoment> moments;
  std::string thoughts;  // kinds of its words as its task knows them (thoughts.h), or ""
};

nlohmann::ordered_json ToJson(const EvalHeader& header);
nlohmann::ordered_json ToJson(const GridPoint& point);
nlohmann::ordered_json ToJson(const ChainRecord& record);

// InvalidArgument names the key that is missing or wrong.
absl::StatusOr<EvalHeader> ParseEvalHeader(const nlohmann::json& json);
absl::StatusOr<GridPoint> ParseGridPoint(const nlohmann::json& json);
absl::StatusOr<ChainRecord> ParseChainRecord(const nlohmann::json& json);

// The first difference that keeps records apart, as "problems: the file has ..., asked for ...";
// nothing when there is none.
std::optional<std::string> Difference(const EvalHeader& file, const EvalHeader& asked);

}  // namespace palimpsest::cli
