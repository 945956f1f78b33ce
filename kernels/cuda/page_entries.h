// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/step_tables.h"

namespace palimpsest::cuda {

// Writes the entries of pages of one format to `entries`. Returns where the next go.
inline PageEntry* PutPages(absl::Span<const PageOffset> pages, PageFormat format,
                           PageEntry* entries) {
  const PageEntry pair = FormatPair(format);
  for (const PageOffset page : pages) *entries++ = page | pair;
  return entries;
}

// The pages of the classes that a call's orders name, each class's once however many orders name it
// (several segments of a sequence may lie in one class). Pages of a call do not overlap, so there
// is never more than the pool has.
class ClassPages {
 public:
  // `entries` has room for all pages of the pool.
  ClassPages(absl::Span<const SequenceView> sequences, PageEntry* entries)
      : sequences_(sequences), entries_(entries), first_(sequences.size(), kNonePut) {}

  // Index in `entries` of the first page of that class.
  uint32_t Put(uint32_t sequence, Thought thought) {
    uint32_t& first = first_[sequence][Index(thought)];
    if (first == kNotPut) {
      const SequenceView& view = sequences_[sequence];
      first = static_cast<uint32_t>(count_);
      count_ = PutPages(view.pages[Index(thought)], view.formats.of(thought), entries_ + count_) -
               entries_;
    }
    return first;
  }

  uint64_t count() const { return count_; }

 private:
  static constexpr uint32_t kNotPut = ~uint32_t{0};
  static constexpr std::array<uint32_t, kThoughtCount> kNonePut = {kNotPut, kNotPut, kNotPut};

  const absl::Span<const SequenceView> sequences_;
  PageEntry* const entries_;
  uint64_t count_ = 0;
  std::vector<std::array<uint32_t, kThoughtCount>> first_;  // by sequence and class
};

}  // namespace palimpsest::cuda
