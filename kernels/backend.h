// SPDX-License-Identifier: Apache-2.0
// The seam between the engine and the hardware: pages in, attention out.
//
// A backend owns one device pool, allocated when it is made and never grown. The host (the decode
// service's pool) decides which page belongs to whom; a backend moves the bytes. Which slots are
// live is known to the backend alone (the live masks inside the pages). How many there are the host
// always knows: after every call, each (layer, KV head) of an even sequence has the same number of
// live slots in each page class; in an uneven one (uneven_lanes.h) each has its own, which follows
// from what was sealed and what anneals keep.
//
// Two implementations behind one conformance suite: kernels/cpu (written to be read, the oracle)
// and kernels/cuda. Calls are made from one thread. A CUDA backend may run them asynchronously in
// order; results written to host memory are valid after Synchronize(), those of
// MeasureSparsity after AwaitSparsity() too.
//
// Errors: InvalidArgument for a call that breaks the contract below, FailedPrecondition when there
// are too few dead slots for a group or no step has begun, Internal for a device fault (after which
// the backend is dead). An asynchronous backend tells what only the device can know (too few dead
// slots) at the next Synchronize; nothing has been written then either.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/format.h"
#include "common/base/selector.h"
#include "common/base/thought.h"
#include "kernels/layout.h"
#include "kernels/query_codebook.h"
#include "kernels/uneven_lanes.h"

namespace palimpsest {

// Where a page lies: bytes from the start of the device pool. A multiple of kPageAlignment.
using PageOffset = uint64_t;
inline constexpr uint32_t kNoOpenGroup = ~uint32_t{0};
inline constexpr uint32_t kQueryWindowMax = 32;
inline constexpr uint32_t kNoEviction = ~uint32_t{0};

// One sequence as kernels see it. The host owns the memory behind the spans; it must outlive the
// call (BeginStep's: the step), and no more: asynchronous backends copy what they still need.
struct SequenceView {
  // Pages of each class in block-table order, indexed by Index(Thought).
  std::array<absl::Span<const PageOffset>, kThoughtCount> pages{};
  ClassFormats formats{};
  uint32_t open_group = kNoOpenGroup;  // index of its open group, < BackendConfig::open_groups
  uint32_t open_count = 0;             // tokens in the open group, 0..16
  uint32_t open_position = 0;          // position of the open group's first token
  // What its slots carry. Others than kNone want CacheShape::slot_scores. kAttentionReceived:
  // Attend adds to the scores of every live and open token, for sequences that add one row.
  SlotScore slot_score = SlotScore::kNone;
  bool keeps_queries = false;  // its newest BackendConfig::query_window queries are kept
  // LongFlow (arXiv 2603.11504), with kValueNorm: in this step every layer's Attend evicts one of
  // the layer's live sealed tokens at this position or later: that of the least probability x L1
  // norm of V, summed over query heads; of equal ones the earliest. It is attended to once more.
  // There must be one; all KV heads of a layer hold the same tokens, in the same slots.
  uint32_t evict_from = kNoEviction;
  // Where lanes hold different numbers of tokens. Wants a codebook with lane_shares, whose ranks
  // hold for all sequences; all pages are then of class R, and there are no slot scores.
  UnevenLanes uneven = {};
};

// The new tokens of one sequence in one step: rows [row, row + count) of the step's activations.
struct StepRows {
  uint32_t sequence = 0;  // index into the step's SequenceViews
  uint32_t row = 0;
  uint32_t count = 0;  // 1..16; open_count + count <= 16
};

// The activations of one layer in one step: what is added to the cache, and what is asked of it
// then. Element type is activation_type(): float on the CPU, bf16 on CUDA. Pointers are in the
// backend's memory space; rows are contiguous.
struct NewTokens {
  // [rows, query_heads, head_dim], after RoPE. Append makes LayerActivations::q of them, in place.
  // May be null where keys are not rotated and no sequence of the step keeps queries.
  void* q = nullptr;
  const void* k = nullptr;  // [rows, kv_heads, head_dim], after RoPE
  const void* v = nullptr;  // [rows, kv_heads, head_dim]
};
struct LayerActivations {
  // [rows, query_heads, head_dim], as keys lie in the cache: after RoPE and, with
  // BackendConfig::rotate_keys, the same transform. Append leaves them like this.
  const void* q = nullptr;
  void* out = nullptr;  // [rows, query_heads, head_dim]
  float scale = 0.0f;   // softmax scale, 1 / sqrt(head_dim) as a rule
};

struct AnnealOrder {
  uint32_t sequence = 0;        // index into the call's SequenceViews
  Thought thought{};            // the class whose pages hold the segment
  uint32_t first_position = 0;  // the segment covers [first_position, end_position)
  uint32_t end_position = 0;
  uint32_t keep = 0;  // live tokens of the segment left in every lane
  // [lanes], or empty: what each lane keeps instead; `keep` is then their mean. Of an uneven
  // sequence alone. Borrowed like SequenceView's. Not of selectors that choose for whole layers or
  // by joint scores.
  absl::Span<const uint32_t> lane_keeps = {};
  Selection selection = {};
};

struct SealOrder {
  uint32_t sequence = 0;
  Thought thought{};  // class to write to; its pages have room for open_count more tokens
};

struct BackendConfig {
  CacheShape shape;
  int query_heads = 0;       // a multiple of shape.kv_heads
  uint64_t pool_bytes = 0;   // one allocation, made at start
  uint32_t open_groups = 0;  // sequences that can be live at once
  uint32_t rows_max = 512;   // rows a step may have
  // Append puts keys, and the queries that are to meet them, through an orthonormal Hadamard
  // transform of each head: outlier channels, which a 4-bit block would pay for, are spread over
  // all. Logits are the same.
  bool rotate_keys = false;  // head_dim must be a power of two
  // Queries kept of each sequence that asks for it: kJointScore wants some. 0: none.
  uint32_t query_window = 0;
  // What kAnticipated scores with; null: orders that name it are refused.
  std::shared_ptr<const QueryCodebook> codebook = nullptr;
};

enum class ActivationType : uint8_t { kFloat32, kBfloat16 };

class Backend {
 public:
  virtual ~Backend() = default;

  virtual ActivationType activation_type() const = 0;

  // Says what the step is: the sequences and their new rows, for every layer's calls below until
  // the next BeginStep. Checked, planned and copied here, once. The block tables may change only
  // after the step's last call.
  virtual absl::Status BeginStep(absl::Span<const SequenceView> sequences,
                                 absl::Span<const StepRows> rows) = 0;

  // Writes K and V of the step's rows into the open groups, as bf16, at open_count onwards; with
  // rotate_keys rotates K on the way and q in place, in fp32, rounding once to what is stored.
  // Then keeps q, as bf16, of sequences that ask for it. Called once a layer and step, before
  // Attend. The caller raises open_count after the last layer of the step.
  virtual absl::Status Append(int layer, const NewTokens& tokens) = 0;

  // Attention of each row over its sequence's live slots and the open group, causal inside the
  // step: row i of a sequence sees open tokens [0, open_count + i]. Reads mixed formats. Where the
  // lane has a residue of n tokens, every query meets one more key: the mean of the evicted ones',
  // with its logit raised by ln(n) and the mean of their values.
  virtual absl::Status Attend(int layer, const LayerActivations& io) = 0;

  // Attention sparsity (ThinKV appendix C.2) of the last row of each of the step's StepRows that
  // `wanted` names by index: logits of all query heads, max over the heads of a KV group, softmax
  // over live keys, mean over KV heads, the share of keys below 1 % of the maximum. Where lanes
  // differ in which tokens are live, key j is the j-th by position; uneven sequences are refused.
  // Writes sparsity[i] in [0, 1] for wanted[i], in host memory. io as Attend's (out is not used).
  virtual absl::Status MeasureSparsity(int layer, absl::Span<const uint32_t> wanted,
                                       const LayerActivations& io, absl::Span<float> sparsity) = 0;

  // Quantises the open group's open_count tokens to the class's format and places them: dead
  // slots first, in block-table and slot order, token order. The caller then sets open_count = 0.
  // Where an order has too few dead slots, no order of the call is carried out.
  virtual absl::Status Seal(absl::Span<const SequenceView> sequences,
                            absl::Span<const SealOrder> orders) = 0;

  // Lowers each ordered segment to `keep` live tokens in every lane, or each lane to its own of
  // lane_keeps, by clearing live bits. A lane that has no more is left as it is. What each selector
  // scores by: kernels/README.md. FailedPrecondition for a selector that
  // this backend was not configured for: kAttentionReceived wants CacheShape::slot_scores,
  // kJointScore a query_window, kAnticipated a codebook, Selection::residue
  // CacheShape::residue (and the sequence an open group, where it lies); kValueAttention works in
  // Attend only.
  virtual absl::Status Anneal(absl::Span<const SequenceView> sequences,
                              absl::Span<const AnnealOrder> orders) = 0;

  // Zeroes `bytes` bytes at `offset`: a page before its first use, a frame after its last.
  virtual absl::Status Zero(PageOffset offset, uint64_t bytes) = 0;
  virtual absl::Status ZeroOpenGroup(uint32_t open_group) = 0;

  // Copies pool bytes to host memory (tests, pool audit, transport staging).
  virtual absl::Status Read(PageOffset offset, absl::Span<uint8_t> out) const = 0;

  // Waits until everything ordered so far has been done. Returns asynchronous faults.
  virtual absl::Status Synchronize() = 0;

  // The same for what MeasureSparsity writes, and no more need have been done: it has been measured
  // before the rest of its step is over. Other faults are left for Synchronize.
  virtual absl::Status AwaitSparsity() = 0;
};

}  // namespace palimpsest
