// SPDX-License-Identifier: Apache-2.0
// Records that a small evaluation could have made.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/cli/eval/record.h"

namespace palimpsest::cli {

inline EvalHeader ExampleHeader() {
  EvalHeader header;
  header.model_fingerprint = "0123456789abcdef";
  header.problems_hash = "fedcba9876543210";
  header.problems = 4;
  header.model = "lab/reasoner/model";
  header.family = "llama";
  header.problem_source = "4 problems of heldout.jsonl";
  header.commit = "0000000000ab";
  header.machine = "a machine";
  return header;
}

inline GridPoint ExamplePoint(const std::string& policy, uint32_t budget = 0, double target = 0) {
  GridPoint point;
  point.spec = DefaultSpec(policy).value();
  point.bounded = budget > 0;
  if (budget > 0) point.spec.budget_tokens = budget;
  if (target > 0) point.target_percent = target;
  return point;
}

// The chain of `problem` at `point`; it holds `percent` of the full cache's bytes.
inline ChainRecord ExampleRecord(const GridPoint& point, int problem, bool right, double percent,
                                 uint32_t tokens = 1000) {
  ChainRecord record;
  record.point = point.Key();
  record.problem = absl::StrCat("p-", problem);
  record.right = right;
  record.verdict = right ? "right" : "no-answer";
  record.end = right ? ChainEnd::kStop : ChainEnd::kLength;
  record.loops = !right && problem % 2 == 1;
  record.tokens = tokens;
  record.tokens_hash = right ? 7 : 0xfedcba9876543210u;
  record.decode_seconds = 10;
  ChainStats& stats = record.stats;
  stats.prompt_tokens = 10;
  stats.new_tokens = tokens;
  stats.steps = tokens;
  stats.full_byte_steps = uint64_t{4096} * tokens * tokens / 2;
  stats.footprint_byte_steps =
      static_cast<uint64_t>(percent / 100 * static_cast<double>(stats.full_byte_steps));
  stats.full_bytes_end = uint64_t{4096} * tokens;
  stats.footprint_bytes_peak =
      static_cast<uint64_t>(percent / 100 * static_cast<double>(stats.full_bytes_end));
  stats.live_token_steps = uint64_t{tokens} * 500;
  stats.live_tokens_peak = tokens / 2;
  stats.plans_applied = 7;
  return record;
}

struct Example {
  EvalHeader header = ExampleHeader();
  std::vector<GridPoint> points = {ExamplePoint("full"), ExamplePoint("thinkv", 900, 10),
                                   ExamplePoint("thinkv", 300, 5), ExamplePoint("window", 64, 10)};
  std::vector<ChainRecord> records;

  Example() {
    for (int i = 0; i < 4; ++i) {
      records.push_back(ExampleRecord(points[0], i, true, 102));
      records.push_back(ExampleRecord(points[1], i, i != 3, 10.2));
      records.push_back(ExampleRecord(points[2], i, i == 0, 5.1, i == 0 ? 1000 : 1250));
    }
    records.push_back(ExampleRecord(points[3], 0, false, 15));
    for (ChainRecord& record : records) {
      if (record.problem != "p-0") continue;
      if (record.point != points[0].Key()) record.stats.timeline = "RRETRRE";
      if (record.point == points[0].Key()) record.thoughts = "R400E500T100";
      for (uint32_t tokens = 0; tokens <= record.tokens; tokens += 100) {
        record.moments.push_back({tokens, std::min(tokens, 300u), 4096});
      }
    }
  }
};

}  // namespace palimpsest::cli
