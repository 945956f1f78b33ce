// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/token_scores.h"

#include <algorithm>

#include "common/base/check.h"
#include "kernels/cpu/anticipated_score.h"
#include "kernels/cpu/joint_score.h"
#include "kernels/random_score.h"

namespace palimpsest {

std::vector<float> ScoreTokens(const ClassLane& lane, const LaneTokens& tokens, Selector selector,
                               uint32_t recent) {
  const auto each = [&](const auto& score) {
    std::vector<float> scores(tokens.size());
    std::transform(tokens.begin(), tokens.end(), scores.begin(), score);
    return scores;
  };
  switch (selector) {
    case Selector::kMostRecent:
      return each([](const LiveToken& token) { return static_cast<float>(token.position); });
    case Selector::kRandom:
      return each([&](const LiveToken& token) {
        return static_cast<float>(RandomScore(static_cast<uint32_t>(lane.layer),
                                              static_cast<uint32_t>(lane.kv_head), token.position));
      });
    case Selector::kAttentionReceived:
      return each([blocks = lane.blocks()](const LiveToken& token) {
        return blocks[token.block].scores[token.slot];
      });
    case Selector::kJointScore:
      return JointScores(lane, tokens, recent);
    case Selector::kAnticipated:
      return AnticipatedScores(lane, tokens);
    case Selector::kKMeansMedoids:   // chooses for all heads at once (kmeans.h)
    case Selector::kValueAttention:  // works in Attend (eviction.h)
      break;
  }
  KV_CHECK(false);
  return {};
}

}  // namespace palimpsest
