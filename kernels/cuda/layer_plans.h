// SPDX-License-Identifier: Apache-2.0
// Attention's plans for steps with uneven sequences, whose numbers of blocks differ by layer: one
// plan a layer, kept from step to step. A plan is a cut of the work, and covers it also when
// sequences have grown: the last item of a pair takes what has been added. So a step plans
//
//   all layers   when sequences come, go or change their rows or formats, or a lane has shrunk
//   one layer    when one of its pairs has grown by so much that warps would wait for it
//
// and else nothing, and copies as little. Items say nothing that differs between steps: see
// AttendItem. No CUDA in here.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/step_tables.h"

namespace palimpsest::cuda {

// Where plans lie in the memory of all: layer l's begins at l * stride with first_item, which count
// from the items behind it, at items_offset.
struct LayerPlanShape {
  uint64_t stride = 0;
  uint64_t items_offset = 0;
};

struct LayerRange {
  uint32_t first = 0;
  uint32_t count = 0;
};

class LayerPlans {
 public:
  LayerPlans() = default;
  LayerPlans(const AttendGeometry& geometry, const CacheShape& shape, int query_heads,
             uint32_t sequences_max);

  uint64_t bytes() const { return shape_.stride * layers_; }  // of all plans
  const LayerPlanShape& shape() const { return shape_; }

  // Goes on to the next step and returns the layers that must be planned anew. pages[i] tells of
  // sequences[i] as of an even sequence; block_counts[i] is its UnevenLanes::block_counts, or null.
  LayerRange Follow(absl::Span<const StepSequence> sequences, absl::Span<const SequencePages> pages,
                    absl::Span<const uint32_t* const> block_counts);
  // Plans these layers into `base`, which need not hold the others' plans. Returns how many bytes
  // of each there are to copy.
  uint64_t Plan(LayerRange layers, uint8_t* base);

 private:
  // One sequence's present state. False where no plan covers it.
  bool FollowOne(uint32_t index, const SequencePages& pages, const uint32_t* block_counts);
  void Restart(absl::Span<const StepSequence> sequences, absl::Span<const SequencePages> pages,
               absl::Span<const uint32_t* const> block_counts);
  uint32_t PlanLayer(uint32_t layer, uint8_t* to);

  uint32_t layers_ = 0, kv_heads_ = 0;
  uint32_t warp_count_ = 0;
  LayerPlanShape shape_;
  AttendPlanner planner_;
  // The step at hand: rows are the sequences' indices, and pages begin at 0.
  std::vector<StepSequence> sequences_;
  std::vector<SequencePages> pages_;
  std::vector<bool> uneven_;
  std::vector<uint32_t> counts_;           // [sequences][lanes]: blocks
  std::vector<uint32_t> planned_;          // the same, when the layer was planned
  std::vector<uint32_t> growth_;           // [layers], since then: of the pair that has grown most
  std::vector<uint32_t> bearable_growth_;  // [layers]
};

}  // namespace palimpsest::cuda
