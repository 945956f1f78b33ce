// SPDX-License-Identifier: Apache-2.0
// Reads what the two record_reference.py recorded (lab/agreement, lab/reasoner), and holds a model
// against it.
#pragma once

#include <cmath>
#include <fstream>
#include <numeric>
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
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t> forced_ids;  // fed after the prompt when logits are compared
  std::vector<int32_t> greedy_ids;  // what follows the prompt greedily
  std::vector<ReferenceRow> rows;
};

inline nlohmann::json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

// What lab/agreement/record_reference.py wrote.
inline Reference ReadReference(const std::string& path) {
  const nlohmann::json json = ReadJson(path);
  const std::vector<int32_t> greedy = json.at("greedy_ids");
  Reference out{json.at("prompt"), json.at("prompt_ids"), greedy, greedy, {}};
  for (const auto& row : json.at("positions")) {
    out.rows.push_back({row.at("position"), row.at("indices"), row.at("logits")});
  }
  return out;
}

// What lab/reasoner/record_reference.py wrote, with whole rows of logits.
inline std::vector<Reference> ReadReasonerReferences(const std::string& path) {
  std::vector<Reference> out;
  const nlohmann::json json = ReadJson(path);
  for (const auto& item : json.at("cases")) {
    Reference& reference = out.emplace_back(Reference{
        item.at("prompt"), item.at("prompt_ids"), item.at("chain_ids"), item.at("greedy_ids"), {}});
    for (const auto& row : item.at("logits")) {
      const std::vector<float> values = row.at("values");
      std::vector<int32_t> indices(values.size());
      std::iota(indices.begin(), indices.end(), 0);
      reference.rows.push_back({row.at("position"), indices, values});
    }
  }
  return out;
}

// Expects the recorded logits within `tolerance`, teacher-forced, and then the same greedy tokens
// from the prompt alone. Uses sequences 0 and 1 of `chains`. Returns the largest logit error.
inline double ExpectAgrees(const Reference& reference, double tolerance, Chains* chains) {
  std::vector<int32_t> text = reference.prompt_ids;
  text.insert(text.end(), reference.forced_ids.begin(), reference.forced_ids.end());
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
