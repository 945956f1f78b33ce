// SPDX-License-Identifier: Apache-2.0
// A Backend that can pretend: calls then move no bytes and only keep book of which token would lie
// in which slot. So an engine can be taken through tens of thousands of tokens of many chains in
// seconds, with its own admission, policies, plans and page tables, and page_writer.h can give the
// device the pages that it would have by then. What of a segment dies is drawn at random, the same
// in every lane; everything else is what the contract of Backend says.
//
// Sparsity is simulated throughout, whether pretending or not: random weights have no thoughts. A
// measurement is carried out where the device is in use, and its values are then replaced by ones
// that follow given shares of R, E and T, one draw a sequence and window.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/backend.h"

namespace palimpsest::bench {

inline constexpr uint32_t kDeadSlot = ~uint32_t{0};

// What one sequence's pages hold, by class.
struct SlotRecord {
  ClassFormats formats{};
  std::array<std::vector<PageOffset>, kThoughtCount> pages;
  std::array<std::vector<uint32_t>, kThoughtCount> positions;  // [pages * 16], or kDeadSlot
  // Where to look: of each position its slot in its class, or kDeadSlot; of each class a slot
  // before which none is dead.
  std::vector<uint32_t> slot_of;
  std::array<size_t, kThoughtCount> first_dead{};

  uint32_t live_tokens() const;
};

// Shares of windows, indexed by Index(Thought), and the sparsity that stands for each.
struct SimulatedThoughts {
  std::array<double, kThoughtCount> shares;
  std::array<float, kThoughtCount> sparsity;
};

class PretendBackend final : public Backend {
 public:
  PretendBackend(std::unique_ptr<Backend> backend, const SimulatedThoughts& thoughts,
                 uint32_t open_groups);

  bool pretending() const { return pretending_; }
  void set_pretending(bool pretending) { pretending_ = pretending; }
  const SlotRecord& record(uint32_t open_group) const { return records_[open_group]; }

  ActivationType activation_type() const override { return backend_->activation_type(); }
  absl::Status BeginStep(absl::Span<const SequenceView> sequences,
                         absl::Span<const StepRows> rows) override;
  absl::Status Append(int layer, const NewTokens& tokens) override;
  absl::Status Attend(int layer, const LayerActivations& io) override;
  absl::Status MeasureSparsity(int layer, absl::Span<const uint32_t> wanted,
                               const LayerActivations& io, absl::Span<float> sparsity) override;
  absl::Status Seal(absl::Span<const SequenceView> sequences,
                    absl::Span<const SealOrder> orders) override;
  absl::Status Anneal(absl::Span<const SequenceView> sequences,
                      absl::Span<const AnnealOrder> orders) override;
  absl::Status Zero(PageOffset offset, uint64_t bytes) override;
  absl::Status ZeroOpenGroup(uint32_t open_group) override;
  absl::Status Read(PageOffset offset, absl::Span<uint8_t> out) const override;
  absl::Status Synchronize() override;
  absl::Status AwaitSparsity() override;

 private:
  absl::Status RecordSeal(const SequenceView& view, Thought thought);
  void RecordAnneal(SlotRecord& record, const AnnealOrder& order);
  float Simulate(const SequenceView& view) const;
  void ReplaceMeasured();
  uint64_t Random();

  std::unique_ptr<Backend> backend_;
  const SimulatedThoughts thoughts_;
  bool pretending_ = false;
  uint64_t random_ = 1;
  std::vector<SlotRecord> records_;                 // by open group
  std::vector<std::pair<float*, float>> measured_;  // what will be, and what replaces it
  // Of the step.
  std::vector<SequenceView> sequences_;
  std::vector<StepRows> rows_;
};

}  // namespace palimpsest::bench
