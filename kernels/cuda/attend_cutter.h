// SPDX-License-Identifier: Apache-2.0
// Cutting a line of pairs into stretches of equal cost: attend_plan.cc does it twice.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cuda/attend_plan.h"

namespace palimpsest::cuda {

// What a page costs, in bytes of the same time: beside its own, for mask, table entry and softmax.
inline int64_t PageCost(const PageRun& run) {
  constexpr int64_t kOverheadBytes = 384;
  return run.lane_bytes + kOverheadBytes;
}

// How many of the pages [first, limit) end before `room` does, to the nearest page; `cost` is
// theirs.
inline uint32_t TakePages(const SequencePages& pages, uint32_t first, int64_t room, uint32_t limit,
                          int64_t* cost) {
  uint32_t taken = 0, before = 0;
  *cost = 0;
  for (const PageRun& run : pages.runs) {
    const uint32_t end = std::min(before + run.page_count, limit);
    const uint32_t from = std::max(before, first + taken);
    before += run.page_count;
    if (from >= end) continue;
    const int64_t page = PageCost(run), count = end - from;
    const int64_t left = room - *cost + page / 2;
    if (left < count * page) {
      const int64_t fit = std::max<int64_t>(left / page, 0);
      *cost += fit * page;
      return taken + static_cast<uint32_t>(fit);
    }
    *cost += count * page;
    taken += static_cast<uint32_t>(count);
  }
  return taken;
}

inline int64_t NextPageCost(const SequencePages& pages, uint32_t page) {
  for (const PageRun& run : pages.runs) {
    if (page < run.page_count) return PageCost(run);
    page -= run.page_count;
  }
  return 0;
}

// Cuts a line of pairs or pieces into stretches of equal cost, one a bin. Where one cannot end
// exactly where it should, the next makes up for it, so that errors do not add up in the last.
class Cutter {
 public:
  Cutter(int64_t bin_cost, uint32_t bins) : bin_cost_(bin_cost), bins_(bins), room_(bin_cost) {}

  // The bin at hand, < bins.
  uint32_t bin() const { return bin_; }

  // Cuts what comes next of the line. Calls emit(stretch) for each part, with bin() where it goes.
  template <typename Emit>
  void Cut(const AttendStretch& whole, const SequencePages& pages, int64_t open_group_cost,
           const Emit& emit) {
    if (room_ >= whole.cost || last()) {
      emit(whole);
      room_ -= whole.cost;
    } else {
      CutParts(whole, pages, whole.with_open_group ? open_group_cost : 0, emit);
    }
    if (room_ <= 0) Next();
  }

 private:
  template <typename Emit>
  void CutParts(const AttendStretch& whole, const SequencePages& pages, int64_t open_group_cost,
                const Emit& emit) {
    const uint32_t end = whole.first_page + whole.page_count;
    AttendStretch part{.first_page = whole.first_page};
    // A part that goes on into a bin takes something of it, so that parts are neighbours.
    bool goes_on = false;
    while (true) {
      int64_t room = last() ? std::numeric_limits<int64_t>::max() / 2 : room_;
      if (goes_on) room = std::max(room, NextPageCost(pages, part.first_page));
      part.page_count = TakePages(pages, part.first_page, room, end, &part.cost);
      const bool open_group_fits =
          (room_ - part.cost) * 2 >= open_group_cost || (goes_on && part.page_count == 0);
      const bool ends = part.first_page + part.page_count == end && (last() || open_group_fits);
      part.with_open_group = ends && whole.with_open_group;
      if (ends) part.cost += open_group_cost;
      room_ -= part.cost;
      if (part.page_count > 0 || part.with_open_group) {
        emit(part);
        goes_on = true;
      }
      if (ends) return;
      part.first_page += part.page_count;
      Next();
    }
  }

  bool last() const { return bin_ + 1 == bins_; }
  void Next() {
    if (last()) return;
    ++bin_;
    room_ += bin_cost_;
  }

  const int64_t bin_cost_;
  const uint32_t bins_;
  uint32_t bin_ = 0;
  int64_t room_;  // left in the present bin
};

}  // namespace palimpsest::cuda
