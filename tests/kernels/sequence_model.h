// SPDX-License-Identifier: Apache-2.0
// One sequence on a backend, beside a plain model of it that keeps tokens in vectors. Every
// operation is done on both and compared: masks, positions, scores, bytes, attention, and which
// tokens a selector keeps. Where scores decide, backends may differ in tokens whose scores are
// nearly equal: the model then takes over the backend's choice, after it has found it justified.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/conformance/device_adapter.h"
#include "tests/kernels/dealt_blocks.h"
#include "tests/kernels/reference.h"

namespace palimpsest {

// A backend with a pool that pages are cut from, never given back.
class TestDevice {
 public:
  TestDevice(DeviceAdapter* adapter, const CacheShape& shape, int query_heads,
             uint64_t pool_bytes = uint64_t{8} << 20, uint32_t open_groups = 4,
             uint32_t rows_max = 64);
  TestDevice(DeviceAdapter* adapter, const BackendConfig& config);

  Backend& backend() { return *backend_; }
  DeviceAdapter& adapter() { return *adapter_; }
  const CacheShape& shape() const { return config_.shape; }
  const BackendConfig& config() const { return config_; }
  int query_heads() const { return config_.query_heads; }
  float scale() const;

  PageOffset NewPage(PageFormat format);
  // The bytes of all pages cut so far.
  std::vector<uint8_t> ReadPages();

 private:
  DeviceAdapter* const adapter_;
  BackendConfig config_;
  std::unique_ptr<Backend> backend_;
  PageOffset next_page_ = 0;
};

// Queries as large as those that sequences draw.
std::shared_ptr<const QueryCodebook> RandomCodebook(const BackendConfig& config, uint32_t queries);

// Random numbers that bf16 holds exactly.
class Bf16Gaussian {
 public:
  explicit Bf16Gaussian(uint64_t seed) : engine_(seed) {}
  float Next(float deviation);
  uint64_t Below(uint64_t limit) { return engine_() % limit; }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_{0.0f, 1.0f};
};

class ModelSequence;

// What one sequence does in a step.
struct SequenceStep {
  ModelSequence* sequence = nullptr;
  uint32_t count = 0;  // new tokens; none: the backend is shown the sequence and nothing more
};

// Appends random tokens to every layer of all sequences in one step, and attends, comparing each
// row with the reference. Rows lie in the order of `steps`; the backend sees the sequences in the
// opposite one. Returns the outputs of all layers. The step stays the backend's current one.
// REQUIRES: open_count() + count <= 16 for each.
std::vector<float> StepTogether(TestDevice* device, absl::Span<const SequenceStep> steps);

// Seals the open groups of all into this class, with new pages as needed, in one call, and compares
// every byte.
void SealTogether(TestDevice* device, absl::Span<ModelSequence* const> sequences, Thought thought);

// Anneals in one call, in the order of `sequences`, and compares the survivors with the model's own
// choices. REQUIRES: of one sequence, orders for different classes.
void AnnealSequences(TestDevice* device, absl::Span<ModelSequence* const> sequences,
                     absl::Span<const AnnealOrder> orders);

struct SparsityPair {
  double measured = 0;
  double exact = 0;
};
// Appends one token to each sequence and measures `layer` with random queries, for the sequences
// that `wanted` names, in its order.
std::vector<SparsityPair> SparsityTogether(TestDevice* device,
                                           absl::Span<ModelSequence* const> sequences,
                                           absl::Span<const uint32_t> wanted, int layer);

class ModelSequence {
 public:
  // What its slots carry, and whether its queries are kept, is as `selector` wants it.
  ModelSequence(TestDevice* device, const ClassFormats& formats, uint32_t open_group, uint64_t seed,
                Selector selector = Selector::kKMeansMedoids);

  // StepTogether of this sequence alone.
  std::vector<float> Step(uint32_t count) {
    return StepTogether(device_, {SequenceStep{.sequence = this, .count = count}});
  }
  SparsityPair Sparsity(int layer) { return SparsityTogether(device_, {this}, {0}, layer)[0]; }
  // Without comparing (slow over long histories) Step only runs the backend. Not compared either
  // where keys are rotated, unless asked for (and `error`, a share of the largest value, is allowed
  // besides the backend's own): rotation_conformance.cc does.
  void compare_attention(bool on, double error = 0.0) {
    compare_attention_ = on;
    attention_error_ = error;
  }
  // Of the queries drawn: the larger, the fewer tokens get all attention. 2 at first.
  void query_deviation(float deviation) { query_deviation_ = deviation; }
  // Keys from now on are of four families of like ones, whose cosines lie around 1 / 2.
  void DrawAlikeKeys();
  // Of the values drawn. 1 at first.
  void value_deviation(float deviation) { value_deviation_ = deviation; }
  // The backend's open group was zeroed, and with it the residue and the newest queries.
  void ForgetOpenGroup();
  // From the next step on one of the tokens at `position` or later is evicted in each
  // (kNoEviction: none), and checked to be the right one.
  void EvictFrom(uint32_t position) { evict_from_ = position; }
  // Its lanes hold different numbers of tokens from now on: lane l may have up to capacities[l]
  // blocks behind the pages that there are. REQUIRES: a codebook with shares, no pages but of
  // class R.
  void MakeUneven(absl::Span<const uint32_t> capacities);
  // A page more than Seal takes by itself.
  void AddPage(Thought thought);
  // SealTogether of this sequence alone.
  void Seal(Thought thought) { SealTogether(device_, {this}, thought); }
  // Anneals and compares the survivors with the model's own choice.
  void Anneal(const AnnealOrder& order) { AnnealTogether({&order, 1}); }
  // The same in one call. REQUIRES: orders for different classes.
  void AnnealTogether(absl::Span<const AnnealOrder> orders) {
    AnnealSequences(device_, {this}, orders);
  }
  // Live tokens of one lane and class; equal for all lanes, or a test failure.
  uint32_t LiveCount(Thought thought) const;
  // Of each lane.
  std::vector<uint32_t> LiveCounts(Thought thought) const;
  // Of one lane and class, ascending.
  std::vector<uint32_t> Positions(Thought thought, int layer, int head) const;
  // Whether lanes hold different tokens.
  bool LanesDiffer(Thought thought) const;
  uint32_t open_count() const { return open_count_; }
  uint32_t next_position() const { return open_position_ + open_count_; }
  SequenceView View() const;
  // Compares masks, positions and live bytes of every page with the model.
  void ComparePages();

 private:
  friend std::vector<float> StepTogether(TestDevice*, absl::Span<const SequenceStep>);
  friend void SealTogether(TestDevice*, absl::Span<ModelSequence* const>, Thought);
  friend void AnnealSequences(TestDevice*, absl::Span<ModelSequence* const>,
                              absl::Span<const AnnealOrder>);
  friend std::vector<SparsityPair> SparsityTogether(TestDevice*, absl::Span<ModelSequence* const>,
                                                    absl::Span<const uint32_t>, int);
  struct SlotBytes {
    std::vector<uint8_t> k, k_scales, v, v_scales;
    bool operator==(const SlotBytes&) const = default;
  };
  struct ModelToken {
    uint32_t position = 0;
    std::vector<float> k, v;               // as appended (and rotated)
    SlotBytes bytes;                       // as sealed
    reference::Vector stored_k, stored_v;  // what attention sees
    double score = 0;                      // of slots that carry one
    reference::Token Seen() const { return {position, stored_k, stored_v}; }
  };
  using Slots = std::vector<std::optional<ModelToken>>;  // 16 a block, block-table order
  // Whose place in which page a block has.
  struct SlotPlace {
    PageOffset page = 0;
    int layer = 0;
    int head = 0;
  };
  // Of what anneals evicted.
  struct Residue {
    reference::Vector k, v;  // sums
    double count = 0;
    void Add(const ModelToken& token);
    reference::Token Mean() const;
  };
  struct Lane {
    std::array<Slots, kThoughtCount> classes;
    std::vector<ModelToken> open;
    Residue residue;
  };

  Lane& lane(int layer, int head) { return lanes_[layer * shape_.kv_heads + head]; }
  SlotPlace PlaceOf(Thought thought, size_t slot, int layer, int head) const;
  uint16_t ReadMask(const std::vector<uint8_t>& pool, Thought thought, const SlotPlace& at) const;
  SlotBytes ReadSlot(const std::vector<uint8_t>& pool, Thought thought, size_t slot, int layer,
                     int head) const;
  // Whether each lane has dead slots for the open group.
  bool HasRoom(Thought thought) const;
  // What Seal does.
  void SealModel(Thought thought);
  // Live tokens in pages, then the first `open` of the open group.
  std::vector<ModelToken*> VisibleTokens(int layer, int head, size_t open);
  std::vector<reference::Token> Visible(int layer, int head, size_t open);
  // And the residue, last, if there is any: what attention is over.
  std::vector<reference::Token> Attended(int layer, int head, size_t open);
  std::vector<reference::Vector> GroupQueries(const float* q, int head) const;
  // Of one lane of a class, in order of position.
  std::vector<ModelToken*> SegmentTokens(const AnnealOrder& order, int layer, int head);

  // What Anneal does, or has done.
  void AnnealModel(const AnnealOrder& order, const std::vector<uint8_t>& pool);
  // K-means: the model chooses by itself, and the backend has to agree.
  void AnnealByMedoids(const AnnealOrder& order, int layer);
  void KeepMedoids(const AnnealOrder& order, int layer, int first, int last);
  // Other selectors: the backend's survivors in `pool` must be among the best by the model's
  // scores.
  void AnnealByScore(const AnnealOrder& order, int layer, int head,
                     const std::vector<uint8_t>& pool);
  // Of the segment's tokens, but the `recent` newest.
  reference::Vector Scores(const AnnealOrder& order, int layer, int head, uint32_t recent);
  reference::Vector AnticipatedScores(const AnnealOrder& order, int layer, int head);
  // Removes what the backend has removed from a class, into `residue` unless that is null. Returns
  // the positions.
  std::vector<uint32_t> TakeOver(Thought thought, int layer, int head,
                                 const std::vector<uint8_t>& pool, Residue* residue = nullptr);

  // What the step's row, [query_heads, head_dim], does to scores and, where asked for, to tokens.
  void JudgeTokens(int layer, const float* q);
  void CheckEviction(int layer, const std::vector<std::pair<uint32_t, double>>& candidates);
  void KeepQueries(int layer, const float* q);
  // As the backend keeps them: rotated where keys are, bf16.
  std::vector<float> Rotated(std::vector<float> head) const;

  float NextKey(uint32_t position, size_t channel);
  // Random K and V of `count` new tokens, [count, kv_heads, head_dim], behind `k` and `v` and into
  // the model's open groups.
  void DrawTokens(int layer, uint32_t count, std::vector<float>* k, std::vector<float>* v);
  // The new row `index` of this sequence, against the reference. q, out: [query_heads, head_dim].
  void CompareRow(int layer, uint32_t index, const float* q, const float* out);
  double ExactSparsity(int layer, const float* q);

  TestDevice* const device_;
  const CacheShape shape_;
  const ClassFormats formats_;
  const uint32_t open_group_;
  const Selector selector_;
  Bf16Gaussian random_;
  std::array<std::vector<PageOffset>, kThoughtCount> pages_;
  std::optional<DealtBlocks> uneven_;
  std::vector<Lane> lanes_;
  // The newest queries of each (layer, query head), oldest first.
  std::vector<std::deque<reference::Vector>> queries_;
  bool compare_attention_ = true;
  double attention_error_ = 0.0;
  float query_deviation_ = 2.0f;
  float value_deviation_ = 1.0f;
  std::array<std::vector<float>, 4> key_families_;  // a row's width each; or empty
  uint32_t evict_from_ = kNoEviction;
  uint32_t open_count_ = 0;
  uint32_t open_position_ = 0;
};

}  // namespace palimpsest
