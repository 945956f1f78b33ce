// SPDX-License-Identifier: Apache-2.0
// One running request: its cache, its text so far, and where it stands with its policy. Owned by
// the engine, touched by the engine's thread only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "common/base/clock.h"
#include "common/policy/policy.h"
#include "common/policy/windows.h"
#include "services/decode/control_plane.h"
#include "services/decode/engine/request.h"
#include "services/decode/pool/sequence_cache.h"

namespace palimpsest {

struct Chain {
  RequestId id = 0;
  GenerateRequest request;
  EventSink sink;
  std::unique_ptr<const Policy> policy;
  std::unique_ptr<SequenceCache> cache;
  // What it is admitted with.
  LaneSharing sharing;
  uint32_t pages_reserved = 0;

  // Text. `next_token` is generated but not yet in the cache: ChosenBefore while the step that
  // chooses it runs.
  uint32_t prompt_done = 0;  // prompt tokens already in the cache
  int32_t next_token = 0;
  uint32_t new_tokens = 0;
  uint32_t ordered_tokens = 0;             // with that of the step that runs
  absl::InlinedVector<int32_t, 4> unsent;  // for the next event
  std::optional<FinishReason> finish;
  absl::Status error;

  // Policy.
  Thought label = Thought::kReasoning;
  Windows windows;
  std::vector<float> sparsity;  // measured in the step that ends a window
  // An anneal that is carried out a token a step (IsGradual), inside attention.
  std::optional<Anneal> gradual;

  // Control plane. Plans wait here for the chain's next group boundary.
  struct ReportTime {
    uint64_t number = 0;
    Clock::Time sent;
    uint32_t tokens = 0;
  };
  uint64_t report_number = 0;
  bool resync = false;          // the store's picture is not the truth: register again
  uint64_t refresh_report = 0;  // the report of the last refresh; older labels come too late
  uint64_t plan_number = 0;     // the newest applied; older ones are duplicates
  std::deque<ReportTime> reports_open;  // unanswered, bounded
  std::vector<StorePlan> plans_waiting;

  RequestStats stats;

  uint32_t prompt_tokens() const { return static_cast<uint32_t>(request.prompt.size()); }
  bool prefilling() const { return prompt_done < prompt_tokens(); }
  // Is there more to generate? A chain that has a stop token is not known to end before the step
  // that chooses one has run.
  bool wants_step() const {
    return !finish.has_value() && (prefilling() || ordered_tokens < request.max_new_tokens);
  }
  // Tokens this chain adds to the next step: a prompt is read up to the end of the open group.
  uint32_t step_tokens() const;
  // Will the next step end a window of generated tokens?
  bool refreshes_next() const;
  // What the next step's kernels are to know of it.
  SequenceView step_view() const;
};

inline uint32_t Chain::step_tokens() const {
  if (!prefilling()) return 1;
  return std::min<uint32_t>(kGroupTokens - cache->open_count(), prompt_tokens() - prompt_done);
}

inline bool Chain::refreshes_next() const {
  if (prefilling() || cache->open_count() + 1 < kGroupTokens) return false;
  return windows.EndsAt(cache->token_count() + 1);
}

inline SequenceView Chain::step_view() const {
  SequenceView view = cache->view();
  if (gradual.has_value() && !prefilling()) view.evict_from = gradual->first_position;
  return view;
}

}  // namespace palimpsest
