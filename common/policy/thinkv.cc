// SPDX-License-Identifier: Apache-2.0
// ThinKV's planner (arXiv 2510.01290, sections 3 and 4): thought-adaptive precision by the label,
// thought-adaptive eviction by demoting whole segments along one retention schedule.
//
//   Case 1  a refresh that yields T demotes every older segment one step: the course has changed.
//   Case 2  live > k: the least important, then oldest, segment goes down step by step to the
//           floor, then the next one, until it fits. Checked at every group and refresh.
//   Drop    everything is at the floor and still live > k: the oldest T segments go whole, then E.
//           R stays: below the floor the budget is soft, and the true bytes are reported.
//
// Each pass is linear in the number of segments.
#include <algorithm>
#include <memory>
#include <utility>

#include "common/policy/classifier.h"
#include "common/policy/policies.h"

namespace palimpsest {
namespace {

// One decision in the making: the segments as they will be when the plan has been carried out.
class Draft {
 public:
  // `live_tokens`: the state's. `annealable_end`: segments from there on are left alone.
  Draft(const SequenceState& state, uint32_t live_tokens, absl::Span<const uint32_t> retention,
        size_t annealable_end)
      : before_(state.segments),
        retention_(retention),
        live_tokens_(live_tokens),
        after_(state.segments.begin(), state.segments.begin() + annealable_end) {}

  // Case 1.
  void DemoteAll() {
    for (Segment& segment : after_) {
      if (CanDemote(segment)) Demote(segment);
    }
  }

  // Case 2, then the drop.
  void FitInto(uint32_t budget_tokens) {
    for (const Thought thought : kThoughts) {  // rising importance
      for (Segment& segment : after_) {
        while (live_tokens_ > budget_tokens && segment.label == thought && CanDemote(segment)) {
          Demote(segment);
        }
        if (live_tokens_ <= budget_tokens) return;
      }
    }
    for (const Thought thought : {Thought::kTransition, Thought::kExecution}) {
      for (Segment& segment : after_) {
        if (live_tokens_ <= budget_tokens) return;
        if (segment.label == thought && !segment.pinned) Lower(segment, 0);
      }
    }
  }

  // What has to be done to get here: one anneal a segment that changed.
  std::vector<Anneal> Anneals() const {
    std::vector<Anneal> anneals;
    anneals.reserve(after_.size());
    for (size_t i = 0; i < after_.size(); ++i) {
      if (after_[i] == before_[i]) continue;
      anneals.push_back({.first_position = after_[i].first_position,
                         .keep = after_[i].live_count,
                         .demotions = after_[i].demotions});
    }
    return anneals;
  }

 private:
  // A peer's snapshot may claim all demotions and yet hold more than the floor; lower it then too.
  bool CanDemote(const Segment& segment) const {
    if (segment.pinned || segment.live_count == 0) return false;
    return segment.demotions < retention_.size() || segment.live_count > retention_.back();
  }

  // One step of the schedule. It may remove nothing: a short segment can be below a step already.
  void Demote(Segment& segment) {
    const size_t step = std::min<size_t>(segment.demotions, retention_.size() - 1);
    Lower(segment, std::min(segment.live_count, retention_[step]));
    segment.demotions = std::max<uint8_t>(segment.demotions, static_cast<uint8_t>(step + 1));
  }

  void Lower(Segment& segment, uint32_t keep) {
    live_tokens_ -= segment.live_count - keep;
    segment.live_count = keep;
  }

  const absl::Span<const Segment> before_;
  const absl::Span<const uint32_t> retention_;
  uint32_t live_tokens_;  // the untouchable segments included
  std::vector<Segment> after_;
};

class ThinKvPolicy final : public Policy {
 public:
  explicit ThinKvPolicy(PolicySpec spec) : spec_(std::move(spec)) {}

  Selection selection() const override { return {Selector::kKMeansMedoids}; }
  bool wants_sparsity() const override { return IsCalibrated(spec_); }

  Plan Decide(const SequenceState& state, const Observation& observation) const override {
    Plan plan;
    if (observation.refresh) plan.next_label = Classify(spec_, observation.sparsity);
    const bool course_changed = plan.next_label == Thought::kTransition;
    // Most group boundaries end here.
    const uint32_t live_tokens = state.live_tokens();
    if (!course_changed && live_tokens <= spec_.budget_tokens) return plan;

    const size_t count = state.segments.size();
    Draft draft(state, live_tokens, spec_.retention,
                observation.refresh || count == 0 ? count : count - 1);
    if (course_changed) draft.DemoteAll();
    draft.FitInto(spec_.budget_tokens);
    plan.anneals = draft.Anneals();
    return plan;
  }

 private:
  const PolicySpec spec_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const Policy>> NewThinKvPolicy(const PolicySpec& spec) {
  return std::make_unique<const ThinKvPolicy>(spec);
}

}  // namespace palimpsest
