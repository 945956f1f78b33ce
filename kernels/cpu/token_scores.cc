// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/token_scores.h"

#include <algorithm>

#include "common/base/check.h"

namespace palimpsest {

std::vector<float> ScoreTokens(const PoolMemory& /*memory*/, const SequenceView& /*view*/,
                               const AnnealOrder& order, LaneIndex at, const LaneTokens& tokens) {
  std::vector<float> scores(tokens.size());
  const auto fill = [&](const auto& score) {
    std::transform(tokens.begin(), tokens.end(), scores.begin(), score);
  };
  switch (order.selection.selector) {
    case Selector::kMostRecent:
      fill([](const LiveToken& token) { return static_cast<float>(token.position); });
      return scores;
    case Selector::kRandom:
      fill([&](const LiveToken& token) {
        return static_cast<float>(RandomScore(at.layer, at.kv_head, token.position));
      });
      return scores;
    default:
      KV_CHECK(false);
      return scores;
  }
}

}  // namespace palimpsest
