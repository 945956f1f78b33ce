// SPDX-License-Identifier: Apache-2.0
#include "services/decode/engine/timed_backend.h"

#include <utility>

namespace palimpsest {
namespace {

class Timed final : public TimedBackend {
 public:
  Timed(std::unique_ptr<Backend> backend, const Clock* clock, bool asynchronous)
      : backend_(std::move(backend)), clock_(clock), asynchronous_(asynchronous) {}

  std::optional<std::array<double, kKernelFamilyCount>> TakeSeconds() override {
    if (asynchronous_) return std::nullopt;
    return std::exchange(seconds_, {});
  }

  ActivationType activation_type() const override { return backend_->activation_type(); }

  absl::Status BeginStep(absl::Span<const SequenceView> sequences,
                         absl::Span<const StepRows> rows) override {
    return backend_->BeginStep(sequences, rows);
  }
  absl::Status Append(int layer, const NewTokens& tokens) override {
    return Time(KernelFamily::kAppend, [&] { return backend_->Append(layer, tokens); });
  }
  absl::Status Attend(int layer, const LayerActivations& io) override {
    return Time(KernelFamily::kAttend, [&] { return backend_->Attend(layer, io); });
  }
  absl::Status MeasureSparsity(int layer, absl::Span<const uint32_t> wanted,
                               const LayerActivations& io, absl::Span<float> sparsity) override {
    return Time(KernelFamily::kSparsity,
                [&] { return backend_->MeasureSparsity(layer, wanted, io, sparsity); });
  }
  absl::Status Seal(absl::Span<const SequenceView> sequences,
                    absl::Span<const SealOrder> orders) override {
    return Time(KernelFamily::kSeal, [&] { return backend_->Seal(sequences, orders); });
  }
  absl::Status Anneal(absl::Span<const SequenceView> sequences,
                      absl::Span<const AnnealOrder> orders) override {
    return Time(KernelFamily::kAnneal, [&] { return backend_->Anneal(sequences, orders); });
  }
  absl::Status Zero(PageOffset offset, uint64_t bytes) override {
    return Time(KernelFamily::kZero, [&] { return backend_->Zero(offset, bytes); });
  }
  absl::Status ZeroOpenGroup(uint32_t open_group) override {
    return Time(KernelFamily::kZero, [&] { return backend_->ZeroOpenGroup(open_group); });
  }
  absl::Status Read(PageOffset offset, absl::Span<uint8_t> out) const override {
    return backend_->Read(offset, out);
  }
  absl::Status Synchronize() override { return backend_->Synchronize(); }
  absl::Status AwaitSparsity() override { return backend_->AwaitSparsity(); }

 private:
  template <typename Call>
  absl::Status Time(KernelFamily family, const Call& call) {
    if (asynchronous_) return call();
    const Clock::Time start = clock_->Now();
    absl::Status status = call();
    seconds_[static_cast<size_t>(family)] +=
        std::chrono::duration<double>(clock_->Now() - start).count();
    return status;
  }

  std::unique_ptr<Backend> backend_;
  const Clock* clock_;
  const bool asynchronous_;
  std::array<double, kKernelFamilyCount> seconds_{};
};

}  // namespace

absl::string_view Name(KernelFamily family) {
  constexpr std::array<absl::string_view, kKernelFamilyCount> kNames = {
      "append", "attend", "sparsity", "seal", "anneal", "zero"};
  return kNames[static_cast<size_t>(family)];
}

std::unique_ptr<TimedBackend> NewTimedBackend(std::unique_ptr<Backend> backend, const Clock* clock,
                                              bool asynchronous) {
  return std::make_unique<Timed>(std::move(backend), clock, asynchronous);
}

}  // namespace palimpsest
