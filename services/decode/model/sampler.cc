// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "services/decode/model/counter_random.h"

namespace palimpsest {
namespace {

struct Choice {
  int32_t token;
  float logit;
  double weight;  // probability times a common factor
};

// Likeliest first. Ties by id, so that the order, and with it the token, is fixed.
bool Likelier(const Choice& a, const Choice& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

absl::StatusOr<int32_t> Greedy(absl::Span<const float> logits) {
  int32_t best = 0;
  bool has_nan = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    has_nan |= std::isnan(logits[i]);
    if (logits[i] > logits[best]) best = static_cast<int32_t>(i);
  }
  if (has_nan) return absl::DataLossError("a logit is not a number");
  if (!std::isfinite(logits[best])) return absl::DataLossError("the largest logit is not finite");
  return best;
}

// Leaves the shortest prefix of sorted choices whose share of all weight reaches top_p.
void KeepTopP(double top_p, std::vector<Choice>* choices) {
  double total = 0;
  for (const Choice& choice : *choices) total += choice.weight;
  double reached = 0;
  for (size_t i = 0; i < choices->size(); ++i) {
    reached += (*choices)[i].weight;
    if (reached >= top_p * total) return choices->resize(i + 1);
  }
}

void KeepMinP(double min_p, std::vector<Choice>* choices) {
  const double least = min_p * choices->front().weight;
  while (choices->back().weight < least) choices->pop_back();
}

int32_t Draw(const std::vector<Choice>& choices, double uniform) {
  double total = 0;
  for (const Choice& choice : choices) total += choice.weight;
  double left = uniform * total;
  for (const Choice& choice : choices) {
    left -= choice.weight;
    if (left < 0) return choice.token;
  }
  return choices.front().token;  // only rounding leads here
}

}  // namespace

absl::Status CheckSamplingParams(const SamplingParams& params) {
  const auto bad = [](absl::string_view name, double found, absl::string_view allowed) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": found ", found, ", allowed: ", allowed));
  };
  // Written so that NaN fails each test.
  if (!(params.temperature >= 0.0f && params.temperature <= 100.0f)) {
    return bad("temperature", params.temperature, "0 to 100");
  }
  if (params.top_k < 0) return bad("top_k", params.top_k, "0 (all) or more");
  if (!(params.top_p > 0.0f && params.top_p <= 1.0f)) {
    return bad("top_p", params.top_p, "more than 0, up to 1");
  }
  if (!(params.min_p >= 0.0f && params.min_p <= 1.0f)) {
    return bad("min_p", params.min_p, "0 to 1");
  }
  return absl::OkStatus();
}

absl::StatusOr<int32_t> SampleToken(absl::Span<const float> logits, const SamplingParams& params,
                                    uint32_t position) {
  KV_CHECK(!logits.empty());
  KV_ASSIGN_OR_RETURN(const int32_t best, Greedy(logits));
  if (params.temperature == 0.0f) return best;
  std::vector<Choice> choices;
  choices.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const double scaled = (double{logits[i]} - double{logits[best]}) / double{params.temperature};
    choices.push_back({static_cast<int32_t>(i), logits[i], std::exp(scaled)});
  }
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < choices.size()) {
    std::nth_element(choices.begin(), choices.begin() + params.top_k, choices.end(), Likelier);
    choices.resize(params.top_k);
  }
  std::sort(choices.begin(), choices.end(), Likelier);
  if (params.top_p < 1.0f) KeepTopP(params.top_p, &choices);
  if (params.min_p > 0.0f) KeepMinP(params.min_p, &choices);
  return Draw(choices, CounterUniform(params.seed, position));
}

}  // namespace palimpsest
