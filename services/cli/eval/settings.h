// SPDX-License-Identifier: Apache-2.0
// What can be asked of `palimpsest eval`.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/settings.h"
#include "services/cli/eval/chat.h"
#include "services/cli/eval/problems.h"
#include "services/cli/fleet.h"
#include "services/cli/grid/points.h"

namespace palimpsest::cli {

enum class EvalFormat : uint8_t { kTable, kJson };

struct EvalSettings {
  GridChoice points{.policy = {"full", "anticipate", "thinkv", "window"},
                    .budget = {},
                    .bytes = {},
                    .windows = {},
                    .formats = {}};
  std::string model;  // empty: the shipped reasoner
  std::string problems = "lab/reasoner/problems/heldout.jsonl";
  ProblemChoice choice;
  ChatStyle chat = ChatStyle::kAuto;
  std::string instruction =
      "Please reason step by step, and put your final answer within \\boxed{}.";
  AnswerRule answer;
  uint32_t samples = 1;
  double temperature = 0;
  uint32_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  uint64_t seed = 1;
  uint32_t max_new_tokens = 0;
  uint32_t expect_tokens = 0;
  FleetOptions fleet{.store = false, .pool_bytes = 1ull << 30};
  std::string device = "auto";
  uint32_t batch = 32;
  std::string codebook;
  std::chrono::nanoseconds timeout = std::chrono::hours(24);
  std::string out;
  bool run = true;
  std::string pictures;
  std::string machine;
  EvalFormat format = EvalFormat::kTable;
  bool quiet = false;
};

// `settings` outlives the table.
std::unique_ptr<SettingsTable> NewEvalSettingsTable(EvalSettings* settings);

}  // namespace palimpsest::cli
