// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/eviction.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/attend.h"

namespace palimpsest {
namespace {

// A live token that may go, in one KV head.
struct Candidate {
  uint32_t position = 0;
  int slot = 0;
  uint16_t* live = nullptr;  // of its page
  float score = 0.0f;        // probability x L1 norm of V
};

void SortByPosition(std::vector<Candidate>& candidates) {
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.position < b.position; });
}

// Without scores.
std::vector<Candidate> Candidates(const PoolMemory& memory, const SequenceView& view, int layer,
                                  int kv_head) {
  std::vector<Candidate> found;
  ForEachLane(memory, view, layer, kv_head, 0, SIZE_MAX, [&](const LaneRef& lane, uint16_t live) {
    for (uint32_t rest = live; rest != 0; rest &= rest - 1) {
      const int slot = std::countr_zero(rest);
      if (lane.positions[slot] < view.evict_from) continue;
      found.push_back({.position = lane.positions[slot], .slot = slot, .live = lane.live});
    }
  });
  SortByPosition(found);
  return found;
}

std::vector<Candidate> ScoredCandidates(const AttendedLane& at) {
  std::vector<Candidate> found;
  ForEachMass(at, [&](const LaneRef& lane, int slot, float mass) {
    if (lane.positions[slot] < at.view.evict_from) return;
    found.push_back({.position = lane.positions[slot],
                     .slot = slot,
                     .live = lane.live,
                     .score = mass * lane.scores[slot]});
  });
  SortByPosition(found);
  return found;
}

}  // namespace

absl::Status CheckEvictions(const PoolMemory& memory, int layer,
                            absl::Span<const SequenceView> sequences,
                            absl::Span<const StepRows> rows) {
  for (const StepRows& r : rows) {
    const SequenceView& view = sequences[r.sequence];
    if (view.evict_from == kNoEviction) continue;
    const auto refused = [&](const char* why) {
      return absl::FailedPreconditionError(
          absl::StrCat("sequence ", r.sequence, ", layer ", layer, ": ", why));
    };
    const std::vector<Candidate> first = Candidates(memory, view, layer, 0);
    if (first.empty()) return refused("no live token that could be evicted");
    for (int head = 1; head < memory.shape().kv_heads; ++head) {
      const std::vector<Candidate> other = Candidates(memory, view, layer, head);
      const bool same = std::equal(
          first.begin(), first.end(), other.begin(), other.end(),
          [](const Candidate& a, const Candidate& b) { return a.position == b.position; });
      if (!same) return refused("KV heads hold different tokens: none can be evicted from all");
    }
  }
  return absl::OkStatus();
}

void EvictLeastValued(absl::Span<const AttendedLane> heads) {
  std::vector<std::vector<Candidate>> candidates;
  candidates.reserve(heads.size());
  for (const AttendedLane& head : heads) candidates.push_back(ScoredCandidates(head));
  std::vector<float> sums(candidates[0].size(), 0.0f);
  for (const std::vector<Candidate>& of_head : candidates) {
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += of_head[i].score;
  }
  const auto least = std::min_element(sums.begin(), sums.end()) - sums.begin();
  for (const std::vector<Candidate>& of_head : candidates) {
    const Candidate& gone = of_head[least];
    *gone.live = static_cast<uint16_t>(*gone.live & ~(1u << gone.slot));
  }
}

}  // namespace palimpsest
