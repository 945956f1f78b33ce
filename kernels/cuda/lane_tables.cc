// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/lane_tables.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/uneven_writer.h"

namespace palimpsest::cuda {
namespace {

constexpr uint64_t kOrdersOfSequence = 4;  // so many to each open group a call has room for
// And for so many rounds, besides one a page: no lane with more blocks can be scored.
constexpr uint64_t kRoundsOfSequence = 2048;

// In numbers.
uint64_t RoomFor(const PoolLayout& layout) {
  const auto lanes = static_cast<uint64_t>(layout.shape().lanes());
  const uint64_t sequences = layout.config().open_groups;
  const uint64_t pages = layout.pages_max();
  const uint64_t rounds = std::min(pages * lanes, pages + sequences * kRoundsOfSequence);
  return sequences *
             (UnevenTable::Size(lanes, 0) + kOrdersOfSequence * LaneKeep::kNumbers * lanes) +
         rounds;
}

}  // namespace

absl::StatusOr<LaneTables> LaneTables::Make(const PoolLayout& layout, cudaStream_t stream) {
  LaneTables tables;
  if (layout.lane_ranks().empty()) return tables;
  tables.ranks_ = layout.lane_ranks();
  tables.room_ = RoomFor(layout);
  KV_ASSIGN_OR_RETURN(tables.block_, StagedBlock::Make(tables.room_ * sizeof(uint32_t), stream,
                                                       "the tables of uneven sequences"));
  return tables;
}

absl::Status LaneTables::Begin(size_t sequences) {
  used_ = 0;
  if (room_ == 0) return absl::OkStatus();
  of_sequence_.assign(sequences, kNoTable);
  KV_ASSIGN_OR_RETURN(uint8_t* const base, block_.Begin());
  numbers_ = reinterpret_cast<uint32_t*>(base);
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> LaneTables::Take(uint64_t numbers) {
  if (numbers > room_ - used_) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tables of a call's uneven sequences have room for ", room_, " numbers, ",
                     kOrdersOfSequence, " orders and ", kRoundsOfSequence,
                     " rounds for each open group; this call needs more"));
  }
  used_ += numbers;
  return static_cast<uint32_t>(used_ - numbers);
}

absl::StatusOr<uint32_t> LaneTables::Put(uint32_t sequence, const SequenceView& view) {
  if (view.uneven.empty()) return kNoTable;
  if (room_ == 0) return absl::InvalidArgumentError("uneven sequences want a codebook with shares");
  uint32_t& table = of_sequence_[sequence];
  if (table != kNoTable) return table;
  KV_ASSIGN_OR_RETURN(const uint32_t first,
                      Take(UnevenTable::Size(ranks_.size(), RoundsUsed(view.uneven))));
  WriteUnevenTable(view.uneven, ranks_, numbers_ + first);
  return table = first;
}

absl::StatusOr<uint32_t> LaneTables::PutKeeps(const AnnealOrder& order) {
  const uint64_t size = LaneKeep::kNumbers * ranks_.size();
  KV_ASSIGN_OR_RETURN(const uint32_t first, Take(size));
  WriteLaneKeeps(order, {numbers_ + first, size});
  return first;
}

absl::Status LaneTables::End(cudaStream_t stream) {
  return used_ == 0 ? absl::OkStatus() : block_.Copy(used_ * sizeof(uint32_t), stream);
}

}  // namespace palimpsest::cuda
