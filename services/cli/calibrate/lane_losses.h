// SPDX-License-Identifier: Apache-2.0
// What each lane of a model would lose, were only its best tokens to stay: texts are read with the
// full cache, and every kLookTokens all live tokens of every lane are scored as `anticipate` would
// score them (kernels/cpu/anticipated_score.h), on the host, whatever the model runs on.
//
// Scores of different lanes are compared in units of the mean norm of a lane's values, since
// removal errors grow with these.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/task_team.h"
#include "kernels/query_codebook.h"
#include "services/decode/device/device.h"
#include "services/decode/pool/page_pool.h"

namespace palimpsest::cli {

struct LookedAtText {
  std::vector<int32_t> tokens;  // at least one, at most the model's positions
  uint32_t prompt_tokens = 0;   // of these the first: they stay in any case
};

struct LossProgress {
  size_t texts_done = 0;
  size_t looks = 0;  // begun
  double share = 0;  // of the work, 0 to 1
};

// Called after each step and from time to time at a look. An error ends the work with it.
using LossHandler = std::function<absl::Status(const LossProgress&)>;

// Looks at a text after every kLookTokens, and at its end where it is shorter. A look at no more
// than kRankedTokens that may go loses nothing. Returns the sum over looks and texts, [layers x KV
// heads]; the same on every number of threads. The device's keys are not rotated, and its pool has
// room for the longest text; ResourceExhausted where it has none; what the model or the backend
// says otherwise. REQUIRES: a codebook with its RoPE, of the device's model.
absl::StatusOr<std::vector<double>> MeasureLaneLosses(const Device& device, PagePool* pool,
                                                      absl::Span<const LookedAtText> texts,
                                                      const QueryCodebook& codebook, TaskTeam* team,
                                                      const LossHandler& on_progress);

}  // namespace palimpsest::cli
