// SPDX-License-Identifier: Apache-2.0
// One case of attend_bench: a batch of equal sequences in a CUDA backend of their own, filled
// through Append and Seal as the engine fills them, ready for one decode step's Attend.
//
// A sequence of `live` tokens has 16 of them in its open group, the last of which is the step's
// own, and the others in pages that lie in random order in the pool. The model has as many layers
// as leave the L2 cache cold between two calls for the same one.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/attend_reference.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_memory.h"

namespace palimpsest::bench {

struct AttendCase {
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  uint32_t batch = 0;
  uint32_t live = 0;         // tokens a sequence, a multiple of 16, at least 32
  ClassFormats formats{};    // pages of R, E and T as 50, 30 and 20 % where the classes differ
  bool uneven = false;       // lanes share the pages unequally; of one class then
  bool holes = false;        // 12 slots of a page live, at random and in each lane others
  int layers = 0;            // 0: chosen as above
  bool slot_scores = false;  // slots have room for a score
  SlotScore slot_score =
      SlotScore::kNone;       // kValueNorm: a token a step is evicted, as LongFlow does
  uint64_t memory_bytes = 0;  // what the pool may take
};

// How wrong the worst output of a layer is. `largest`: |out - exact| as a share of the largest |V|;
// `relative`: Euclidean, over all outputs.
struct AttendError {
  double largest = 0;
  double relative = 0;
};

class AttendBed {
 public:
  // ResourceExhausted for a case that does not fit in memory_bytes or on the device.
  static absl::StatusOr<std::unique_ptr<AttendBed>> Make(const AttendCase& spec);

  cudaStream_t stream() const { return backend_->stream(); }
  int layers() const { return layers_; }
  absl::Status Attend(int layer);
  absl::StatusOr<AttendError> Verify(int layer);
  // How wrong the scores are that one more Attend of the layer adds, as a share of the right ones;
  // or how much more than the least value that of an evicted token is. At its worst. Infinite where
  // another number of tokens was evicted than one, or not the same in all KV heads.
  absl::StatusOr<double> VerifyScores(int layer);

  // What Attend of one layer had to read or write: K and V data and scales of whole pages, their
  // live masks, the open groups' tokens, queries and outputs. Not the block tables.
  uint64_t bytes() const;
  // The same without the dead slots.
  uint64_t live_bytes() const;

 private:
  static constexpr uint32_t kPromptTokens = 16;  // not evicted

  explicit AttendBed(const AttendCase& spec) : spec_(spec) {}
  absl::Status Build();
  absl::Status MakeBackend();
  void PlacePages();
  absl::Status MakeActivations();
  absl::Status Fill();
  absl::Status FillPage(uint32_t page);
  absl::Status AppendTokens(uint32_t first, uint32_t end, uint32_t count);
  absl::Status Punch();
  absl::StatusOr<std::vector<JudgedSlot>> Judge(int layer);

  // Whose the blocks are of any sequence that has all its pages.
  absl::Status DealBlocks();
  PagesOnDevice Pages() const;
  float scale() const;
  uint64_t BytesOfPages(double share_of_slots) const;
  uint64_t OtherBytes() const;
  Thought ClassOf(uint32_t page) const;

  AttendCase spec_;
  int layers_ = 0;
  uint32_t pages_each_ = 0;
  std::array<uint32_t, kThoughtCount> pages_of_class_{};  // of one sequence
  std::array<PageLayout, kThoughtCount> layouts_;
  std::unique_ptr<CudaBackend> backend_;

  // [batch][pages_each], class after class.
  std::vector<PageOffset> offsets_;
  std::vector<SequenceView> views_;
  std::vector<uint32_t> position_;  // of each sequence's next token
  cuda::DeviceBytes keys_, values_, q_, out_, pages_;
  // Of uneven sequences.
  std::shared_ptr<const QueryCodebook> codebook_;
  std::vector<uint32_t> round_first_, block_counts_;
  cuda::DeviceBytes first_block_, blocks_;
};

}  // namespace palimpsest::bench
