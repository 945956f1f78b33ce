// SPDX-License-Identifier: Apache-2.0
// Reads what lab/agreement/record_reference.py recorded, and holds a model against it.
#pragma once

#include <cmath>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "services/decode/model/model.h"
#include "tests/decode/model/chain.h"

namespace palimpsest {

struct ReferenceRow {
  size_t position = 0;
  std::vector<int32_t> indices;
  std::vector<float> logits;
};

struct Reference {
  std::string prompt;
  std::vector<int32_t> prompt_ids, greedy_ids;
  std::vector<ReferenceRow> rows;
};

// Nothing when the file is not in record_reference.py's format.
inline std::optional<Reference> TryReadReference(const std::string& path) {
  std::ifstream file(path);
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  for (const char* key : {"prompt", "prompt_ids", "greedy_ids", "positions"}) {
    if (!json.is_object() || !json.contains(key)) return std::nullopt;
  }
  Reference out{json["prompt"], json["prompt_ids"], json["greedy_ids"], {}};
  for (const auto& row : json["positions"]) {
    out.rows.push_back({row.at("position"), row.at("indices"), row.at("logits")});
  }
  return out;
}

inline Reference ReadReference(const std::string& path) {
  const std::optional<Reference> reference = TryReadReference(path);
  KV_CHECK(reference.has_value());
  return *reference;
}

// Expects the recorded logits within `tolerance`, teacher-forced over prompt and greedy tokens,
// and then the same greedy tokens from the prompt alone. Uses sequences 0 and 1 of `chains`.
// Returns the largest logit error.
inline double ExpectAgrees(const Reference& reference, double tolerance, Chains* chains) {
  std::vector<int32_t> text = reference.prompt_ids;
  text.insert(text.end(), reference.greedy_ids.begin(), reference.greedy_ids.end());
  const auto forced = chains->FeedAll(0, text, 16);
  double worst = 0;
  for (const ReferenceRow& row : reference.rows) {
    for (size_t i = 0; i < row.indices.size(); ++i) {
      const double error = std::abs(forced[row.position][row.indices[i]] - row.logits[i]);
      worst = std::max(worst, std::isnan(error) ? HUGE_VAL : error);
    }
  }
  EXPECT_LE(worst, tolerance);
  std::vector<int32_t> generated;
  auto logits = chains->FeedAll(1, reference.prompt_ids, 16).back();
  while (generated.size() < reference.greedy_ids.size()) {
    generated.push_back(Greedy(logits));
    logits = chains->FeedAll(1, {generated.back()}, 1).back();
  }
  EXPECT_EQ(generated, reference.greedy_ids);
  return worst;
}

}  // namespace palimpsest
