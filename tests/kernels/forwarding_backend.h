// SPDX-License-Identifier: Apache-2.0
// For tests that look at what a backend is asked: passes every call on. Derive, and override what
// is to be looked at.
#pragma once

#include <memory>
#include <utility>

#include "kernels/backend.h"

namespace palimpsest {

class ForwardingBackend : public Backend {
 public:
  explicit ForwardingBackend(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}

  ActivationType activation_type() const override { return backend_->activation_type(); }
  absl::Status BeginStep(absl::Span<const SequenceView> sequences,
                         absl::Span<const StepRows> rows) override {
    return backend_->BeginStep(sequences, rows);
  }
  absl::Status Append(int layer, const NewTokens& tokens) override {
    return backend_->Append(layer, tokens);
  }
  absl::Status Attend(int layer, const LayerActivations& io) override {
    return backend_->Attend(layer, io);
  }
  absl::Status MeasureSparsity(int layer, absl::Span<const uint32_t> wanted,
                               const LayerActivations& io, absl::Span<float> sparsity) override {
    return backend_->MeasureSparsity(layer, wanted, io, sparsity);
  }
  absl::Status Seal(absl::Span<const SequenceView> sequences,
                    absl::Span<const SealOrder> orders) override {
    return backend_->Seal(sequences, orders);
  }
  absl::Status Anneal(absl::Span<const SequenceView> sequences,
                      absl::Span<const AnnealOrder> orders) override {
    return backend_->Anneal(sequences, orders);
  }
  absl::Status Zero(PageOffset offset, uint64_t bytes) override {
    return backend_->Zero(offset, bytes);
  }
  absl::Status ZeroOpenGroup(uint32_t open_group) override {
    return backend_->ZeroOpenGroup(open_group);
  }
  absl::Status Read(PageOffset offset, absl::Span<uint8_t> out) const override {
    return backend_->Read(offset, out);
  }
  absl::Status Synchronize() override { return backend_->Synchronize(); }
  absl::Status AwaitSparsity() override { return backend_->AwaitSparsity(); }

 protected:
  Backend& backend() const { return *backend_; }

 private:
  const std::unique_ptr<Backend> backend_;
};

}  // namespace palimpsest
