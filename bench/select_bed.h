// SPDX-License-Identifier: Apache-2.0
// Sequences of a CUDA backend that have come to the end of a window: all their tokens in full pages
// of one class, ready for an anneal that chooses among them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_memory.h"

namespace palimpsest::bench {

struct SelectCase {
  CacheShape shape;
  int query_heads = 0;
  PageFormat format;
  uint32_t batch = 0;
  uint32_t live_max = 0;          // tokens of a sequence, a multiple of 16
  uint32_t codebook_queries = 0;  // of a head; 0: no codebook
  bool alike = false;             // every key is found again among the newest 64
  bool uneven = false;            // lanes hold and keep different numbers. Wants a codebook
};

// Random queries for a model of that shape.
std::shared_ptr<QueryCodebook> RandomCodebook(const CacheShape& shape, int query_heads,
                                              uint32_t queries);

class SelectBed {
 public:
  static absl::StatusOr<std::unique_ptr<SelectBed>> Make(const SelectCase& spec);

  cudaStream_t stream() const { return backend_->stream(); }
  // With SelectCase::uneven, before anneals from `live` tokens a lane on average to `keep`, both
  // multiples of 16: deals out the blocks of all sequences, for each lane what it keeps and the
  // window that came in since, and gives the tokens positions in their lane's order.
  absl::Status Deal(uint32_t live, uint32_t keep);
  // Anneals all sequences, the first `live` tokens of each, down to `keep`.
  absl::Status Anneal(uint32_t live, uint32_t keep, Selection selection);
  // All tokens are alive again.
  absl::Status Revive();

 private:
  explicit SelectBed(const SelectCase& spec);
  absl::Status Build();
  absl::Status MakeRows();
  absl::Status FillPage(uint32_t page, uint32_t first, uint32_t end);

  UnevenLanes Uneven() const {
    return {.round_first = round_first_, .block_counts = block_counts_};
  }
  absl::Status WritePositions(uint32_t pages);

  const SelectCase spec_;
  const std::vector<float> shares_;  // of uneven sequences' lanes
  const PageLayout layout_;
  const uint32_t pages_each_;
  std::unique_ptr<CudaBackend> backend_;
  std::vector<PageOffset> offsets_;  // [batch][pages_each]
  // Of all sequences alike, where they are uneven: what Deal has found.
  std::vector<uint32_t> lane_keeps_, round_first_, block_counts_;
  cuda::DeviceBytes keys_, values_;
};

}  // namespace palimpsest::bench
