// SPDX-License-Identifier: Apache-2.0
// A Backend that writes down what goes into another one and which tokens live there after every
// step, so that a policy can be followed from outside, by a program that shares no code with it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/forwarding_backend.h"

namespace palimpsest {

// What was seen of one sequence. All numbers are exact in bf16, de-quantised ones too.
struct Recording {
  std::vector<uint32_t> step_tokens;  // how many tokens each step appended
  std::vector<uint16_t> q;            // [tokens][layers][query_heads][head_dim], after RoPE
  std::vector<uint16_t> k, v;         // [tokens][layers][kv_heads][head_dim], k after RoPE
  // The same as read back from pages, of the tokens that have been sealed.
  std::vector<uint16_t> stored_k, stored_v;
  // Bit p of [steps][layers][kv_heads][positions_max / 8]: position p is live between this step
  // and the next one, in a page or in the open group. There is none of the last step.
  std::vector<uint8_t> live;
  uint32_t positions_max = 0;   // a multiple of 8
  std::vector<float> sparsity;  // as measured, in order
};

// Queries, keys and values are rounded to bf16 before `backend` sees them, as a GPU's are. Serves
// one sequence of up to `positions_max` tokens, and a CPU backend without rotated keys.
class RecordingBackend final : public ForwardingBackend {
 public:
  RecordingBackend(std::unique_ptr<Backend> backend, const BackendConfig& config,
                   uint32_t positions_max);

  const Recording& recording() const { return recording_; }

  absl::Status BeginStep(absl::Span<const SequenceView> sequences,
                         absl::Span<const StepRows> rows) override;
  absl::Status Append(int layer, const NewTokens& tokens) override;
  absl::Status Attend(int layer, const LayerActivations& io) override;
  absl::Status MeasureSparsity(int layer, absl::Span<const uint32_t> wanted,
                               const LayerActivations& io, absl::Span<float> sparsity) override;
  absl::Status Seal(absl::Span<const SequenceView> sequences,
                    absl::Span<const SealOrder> orders) override;

 private:
  // Records which tokens are live in `view`, as the step before has left it.
  absl::Status RecordLive(const SequenceView& view);
  void SetLive(int lane, uint32_t position);
  // Records the tokens that have just been sealed to `thought`.
  absl::Status RecordStored(const SequenceView& view, Thought thought);
  // Rounds the step's rows of `heads` heads each, records them in `all` and gives them back as
  // floats, in `rounded`.
  const float* Record(int layer, int heads, const void* rows, std::vector<uint16_t>& all,
                      std::vector<float>& rounded);

  const BackendConfig config_;
  std::vector<uint32_t> ranks_;  // of lanes, for uneven sequences
  Recording recording_;
  uint32_t tokens_ = 0;  // before the present step
  uint32_t count_ = 0;   // that it appends
  size_t live_at_ = 0;   // where the present step's live bits begin
  std::vector<float> q_, k_, v_;
};

}  // namespace palimpsest
