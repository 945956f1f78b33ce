// SPDX-License-Identifier: Apache-2.0
#include "bench/fleet/pretend_backend.h"

#include <algorithm>
#include <utility>

#include "common/base/status_macros.h"
#include "services/decode/model/counter_random.h"

namespace palimpsest::bench {
uint32_t SlotRecord::live_tokens() const {
  uint32_t live = 0;
  for (const std::vector<uint32_t>& slots : positions) {
    live += static_cast<uint32_t>(slots.size() - std::count(slots.begin(), slots.end(), kDeadSlot));
  }
  return live;
}

PretendBackend::PretendBackend(std::unique_ptr<Backend> backend, const SimulatedThoughts& thoughts,
                               uint32_t open_groups)
    : backend_(std::move(backend)), thoughts_(thoughts), records_(open_groups) {}

absl::Status PretendBackend::BeginStep(absl::Span<const SequenceView> sequences,
                                       absl::Span<const StepRows> rows) {
  sequences_.assign(sequences.begin(), sequences.end());
  rows_.assign(rows.begin(), rows.end());
  return pretending_ ? absl::OkStatus() : backend_->BeginStep(sequences, rows);
}

absl::Status PretendBackend::Append(int layer, const NewTokens& tokens) {
  return pretending_ ? absl::OkStatus() : backend_->Append(layer, tokens);
}

absl::Status PretendBackend::Attend(int layer, const LayerActivations& io) {
  return pretending_ ? absl::OkStatus() : backend_->Attend(layer, io);
}

absl::Status PretendBackend::MeasureSparsity(int layer, absl::Span<const uint32_t> wanted,
                                             const LayerActivations& io,
                                             absl::Span<float> sparsity) {
  if (!pretending_) {
    absl::Status status = backend_->MeasureSparsity(layer, wanted, io, sparsity);
    if (!status.ok()) return status;
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    const float simulated = Simulate(sequences_[rows_[wanted[i]].sequence]);
    if (pretending_) {
      sparsity[i] = simulated;
    } else {
      measured_.push_back({&sparsity[i], simulated});
    }
  }
  return absl::OkStatus();
}

// The same in every layer: a draw of the sequence and its position.
float PretendBackend::Simulate(const SequenceView& view) const {
  const uint64_t bits = MixBits(MixBits(view.open_group) ^ view.open_position);
  double draw = static_cast<double>(bits >> 11) * 0x1p-53;
  for (const Thought thought : kThoughts) {
    draw -= thoughts_.shares[Index(thought)];
    if (draw < 0) return thoughts_.sparsity[Index(thought)];
  }
  return thoughts_.sparsity[Index(Thought::kReasoning)];
}

absl::Status PretendBackend::Seal(absl::Span<const SequenceView> sequences,
                                  absl::Span<const SealOrder> orders) {
  if (!pretending_) return backend_->Seal(sequences, orders);
  for (const SealOrder& order : orders) {
    KV_RETURN_IF_ERROR(RecordSeal(sequences[order.sequence], order.thought));
  }
  return absl::OkStatus();
}

absl::Status PretendBackend::RecordSeal(const SequenceView& view, Thought thought) {
  SlotRecord& record = records_[view.open_group];
  record.formats = view.formats;
  for (const Thought t : kThoughts) {
    std::vector<PageOffset>& pages = record.pages[Index(t)];
    std::vector<uint32_t>& positions = record.positions[Index(t)];
    const absl::Span<const PageOffset> now = view.pages[Index(t)];
    // Pages are only ever added, or all given back.
    if (now.size() < pages.size() || !std::equal(pages.begin(), pages.end(), now.begin())) {
      positions.clear();
      record.first_dead[Index(t)] = 0;
    }
    pages.assign(now.begin(), now.end());
    positions.resize(pages.size() * kSlotsPerPage, kDeadSlot);
  }
  std::vector<uint32_t>& positions = record.positions[Index(thought)];
  size_t& slot = record.first_dead[Index(thought)];
  record.slot_of.resize(view.open_position + view.open_count, kDeadSlot);
  for (uint32_t t = 0; t < view.open_count; ++t, ++slot) {
    while (slot < positions.size() && positions[slot] != kDeadSlot) ++slot;
    if (slot == positions.size()) {
      return absl::FailedPreconditionError("too few dead slots for a group");
    }
    positions[slot] = view.open_position + t;
    record.slot_of[positions[slot]] = static_cast<uint32_t>(slot);
  }
  return absl::OkStatus();
}

absl::Status PretendBackend::Anneal(absl::Span<const SequenceView> sequences,
                                    absl::Span<const AnnealOrder> orders) {
  if (!pretending_) return backend_->Anneal(sequences, orders);
  for (const AnnealOrder& order : orders) {
    RecordAnneal(records_[sequences[order.sequence].open_group], order);
  }
  return absl::OkStatus();
}

// Keeps a random `keep` of the segment's live tokens: the k-th of n is kept with the chance that
// makes every choice of `keep` of them equally likely.
void PretendBackend::RecordAnneal(SlotRecord& record, const AnnealOrder& order) {
  std::vector<uint32_t>& positions = record.positions[Index(order.thought)];
  size_t& first_dead = record.first_dead[Index(order.thought)];
  const auto begin = record.slot_of.begin() + order.first_position;
  const auto end = record.slot_of.begin() + order.end_position;
  auto left = static_cast<uint64_t>(end - begin - std::count(begin, end, kDeadSlot));
  uint64_t keep = std::min<uint64_t>(order.keep, left);
  for (auto slot = begin; slot != end; ++slot) {
    if (*slot == kDeadSlot) continue;
    if (Random() % left-- < keep) {
      --keep;
    } else {
      positions[*slot] = kDeadSlot;
      first_dead = std::min<size_t>(first_dead, *slot);
      *slot = kDeadSlot;
    }
  }
}

uint64_t PretendBackend::Random() { return MixBits(random_++); }

absl::Status PretendBackend::Zero(PageOffset offset, uint64_t bytes) {
  return pretending_ ? absl::OkStatus() : backend_->Zero(offset, bytes);
}

absl::Status PretendBackend::ZeroOpenGroup(uint32_t open_group) {
  records_[open_group] = {};
  return pretending_ ? absl::OkStatus() : backend_->ZeroOpenGroup(open_group);
}

absl::Status PretendBackend::Read(PageOffset offset, absl::Span<uint8_t> out) const {
  return backend_->Read(offset, out);
}

absl::Status PretendBackend::Synchronize() {
  if (pretending_) return absl::OkStatus();
  absl::Status status = backend_->Synchronize();
  ReplaceMeasured();
  return status;
}

absl::Status PretendBackend::AwaitSparsity() {
  if (pretending_) return absl::OkStatus();
  absl::Status status = backend_->AwaitSparsity();
  ReplaceMeasured();
  return status;
}

void PretendBackend::ReplaceMeasured() {
  for (const auto& [measured, simulated] : measured_) *measured = simulated;
  measured_.clear();
}

}  // namespace palimpsest::bench
