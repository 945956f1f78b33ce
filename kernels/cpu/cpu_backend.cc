// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_backend.h"

#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kernels/checks.h"
#include "kernels/cpu/anneal.h"
#include "kernels/cpu/attend.h"
#include "kernels/cpu/checks.h"
#include "kernels/cpu/eviction.h"
#include "kernels/cpu/pool_memory.h"
#include "kernels/cpu/query_window.h"
#include "kernels/cpu/seal.h"
#include "kernels/cpu/sparsity.h"

namespace palimpsest {
namespace {

constexpr int kThreadsMax = 1024;

// Checks, then hands over to the function of the same name.
class CpuBackend final : public Backend {
 public:
  CpuBackend(PoolMemory memory, std::shared_ptr<TaskTeam> team)
      : memory_(std::move(memory)), team_(std::move(team)) {}

  ActivationType activation_type() const override { return ActivationType::kFloat32; }

  absl::Status BeginStep(absl::Span<const SequenceView> sequences,
                         absl::Span<const StepRows> rows) override {
    in_step_ = false;  // a refused step is none
    KV_RETURN_IF_ERROR(CheckSequences(memory_.layout(), sequences));
    KV_RETURN_IF_ERROR(CheckRows(memory_.layout(), sequences, rows));
    sequences_.assign(sequences.begin(), sequences.end());
    rows_.assign(rows.begin(), rows.end());
    in_step_ = true;
    return absl::OkStatus();
  }

  absl::Status Append(int layer, const NewTokens& tokens) override {
    KV_RETURN_IF_ERROR(CheckInStep(layer));
    KV_RETURN_IF_ERROR(CheckNewTokens(memory_, sequences_, rows_, tokens));
    palimpsest::Append(memory_, layer, sequences_, rows_, tokens);
    KeepQueries(memory_, layer, sequences_, rows_, tokens);
    return absl::OkStatus();
  }

  absl::Status Attend(int layer, const LayerActivations& io) override {
    KV_RETURN_IF_ERROR(CheckInStep(layer));
    KV_RETURN_IF_ERROR(CheckQueries(memory_, rows_, io));
    if (io.out == nullptr) return absl::InvalidArgumentError("out is null");
    KV_RETURN_IF_ERROR(CheckEvictions(memory_, layer, sequences_, rows_));
    palimpsest::Attend(memory_, layer, sequences_, rows_, io, *team_, &scratch_);
    return absl::OkStatus();
  }

  absl::Status MeasureSparsity(int layer, absl::Span<const uint32_t> wanted,
                               const LayerActivations& io, absl::Span<float> sparsity) override {
    KV_RETURN_IF_ERROR(CheckInStep(layer));
    KV_RETURN_IF_ERROR(CheckWanted(wanted, UnevenRows(sequences_, rows_), sparsity.size()));
    std::vector<StepRows> rows;
    rows.reserve(wanted.size());
    for (const uint32_t index : wanted) rows.push_back(rows_[index]);
    KV_RETURN_IF_ERROR(CheckQueries(memory_, rows, io));
    return palimpsest::MeasureSparsity(memory_, layer, sequences_, rows, io, *team_, sparsity);
  }

  absl::Status Seal(absl::Span<const SequenceView> sequences,
                    absl::Span<const SealOrder> orders) override {
    KV_RETURN_IF_ERROR(CheckSeal(memory_.layout(), sequences, orders));
    return palimpsest::Seal(memory_, sequences, orders, *team_);
  }

  absl::Status Anneal(absl::Span<const SequenceView> sequences,
                      absl::Span<const AnnealOrder> orders) override {
    KV_RETURN_IF_ERROR(CheckAnneal(memory_.layout(), sequences, orders));
    palimpsest::Anneal(memory_, sequences, orders, *team_);
    return absl::OkStatus();
  }

  absl::Status Zero(PageOffset offset, uint64_t bytes) override {
    KV_RETURN_IF_ERROR(CheckRange(memory_.layout(), offset, bytes));
    if (bytes > 0) std::memset(memory_.page(offset), 0, bytes);
    return absl::OkStatus();
  }

  absl::Status ZeroOpenGroup(uint32_t open_group) override {
    KV_RETURN_IF_ERROR(CheckOpenGroup(memory_.layout(), open_group));
    memory_.ZeroOpenGroup(open_group);
    return absl::OkStatus();
  }

  absl::Status Read(PageOffset offset, absl::Span<uint8_t> out) const override {
    KV_RETURN_IF_ERROR(CheckRange(memory_.layout(), offset, out.size()));
    if (!out.empty()) std::memcpy(out.data(), memory_.page(offset), out.size());
    return absl::OkStatus();
  }

  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::Status AwaitSparsity() override { return absl::OkStatus(); }

 private:
  absl::Status CheckInStep(int layer) const {
    if (!in_step_) return absl::FailedPreconditionError("no step has begun");
    return CheckLayer(memory_.layout(), layer);
  }

  PoolMemory memory_;
  const std::shared_ptr<TaskTeam> team_;
  AttendScratch scratch_;
  // The step at hand. The block tables behind the views stay the caller's.
  bool in_step_ = false;
  std::vector<SequenceView> sequences_;
  std::vector<StepRows> rows_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> NewCpuBackend(const BackendConfig& config, int threads) {
  if (threads < 1 || threads > kThreadsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads must be in 1..", kThreadsMax, ", got ", threads));
  }
  return NewCpuBackend(config, std::make_shared<TaskTeam>(threads));
}

absl::StatusOr<std::unique_ptr<Backend>> NewCpuBackend(const BackendConfig& config,
                                                       std::shared_ptr<TaskTeam> team) {
  KV_CHECK(team != nullptr);
  KV_RETURN_IF_ERROR(CheckConfig(config));
  KV_ASSIGN_OR_RETURN(PoolMemory memory, PoolMemory::Allocate(config));
  return std::make_unique<CpuBackend>(std::move(memory), std::move(team));
}

}  // namespace palimpsest
