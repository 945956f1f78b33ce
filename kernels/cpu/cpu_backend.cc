// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kernels/cpu/anneal.h"
#include "kernels/cpu/attend.h"
#include "kernels/cpu/checks.h"
#include "kernels/cpu/pool_memory.h"
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
    KV_RETURN_IF_ERROR(CheckSequences(memory_, sequences));
    KV_RETURN_IF_ERROR(CheckRows(memory_, sequences, rows));
    sequences_.assign(sequences.begin(), sequences.end());
    rows_.assign(rows.begin(), rows.end());
    in_step_ = true;
    return absl::OkStatus();
  }

  absl::Status Append(int layer, const LayerActivations& io) override {
    KV_RETURN_IF_ERROR(CheckInStep(layer));
    KV_RETURN_IF_ERROR(CheckKeysAndValues(memory_, rows_, io));
    palimpsest::Append(memory_, layer, sequences_, rows_, io);
    return absl::OkStatus();
  }

  absl::Status Attend(int layer, const LayerActivations& io) override {
    KV_RETURN_IF_ERROR(CheckInStep(layer));
    KV_RETURN_IF_ERROR(CheckQueries(memory_, rows_, io));
    if (io.out == nullptr) return absl::InvalidArgumentError("out is null");
    palimpsest::Attend(memory_, layer, sequences_, rows_, io, *team_, &scratch_);
    return absl::OkStatus();
  }

  absl::Status MeasureSparsity(int layer, absl::Span<const uint32_t> wanted,
                               const LayerActivations& io, absl::Span<float> sparsity) override {
    KV_RETURN_IF_ERROR(CheckInStep(layer));
    if (sparsity.size() != wanted.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("room for ", sparsity.size(), " results of ", wanted.size()));
    }
    std::vector<StepRows> rows;
    rows.reserve(wanted.size());
    for (const uint32_t index : wanted) {
      if (index >= rows_.size()) {
        return absl::InvalidArgumentError(
            absl::StrCat("no rows ", index, " in a step of ", rows_.size()));
      }
      rows.push_back(rows_[index]);
    }
    KV_RETURN_IF_ERROR(CheckQueries(memory_, rows, io));
    return palimpsest::MeasureSparsity(memory_, layer, sequences_, rows, io, *team_, sparsity);
  }

  absl::Status Seal(absl::Span<const SequenceView> sequences,
                    absl::Span<const SealOrder> orders) override {
    KV_RETURN_IF_ERROR(CheckOrders(sequences, orders));
    std::vector<uint32_t> named;
    for (const SealOrder& order : orders) named.push_back(order.sequence);
    std::sort(named.begin(), named.end());
    if (std::adjacent_find(named.begin(), named.end()) != named.end()) {
      return absl::InvalidArgumentError("a sequence is sealed twice in one call");
    }
    return palimpsest::Seal(memory_, sequences, orders, *team_);
  }

  absl::Status Anneal(absl::Span<const SequenceView> sequences,
                      absl::Span<const AnnealOrder> orders) override {
    KV_RETURN_IF_ERROR(CheckOrders(sequences, orders));
    for (const AnnealOrder& order : orders) {
      if (order.selector != Selector::kKMeansMedoids && order.selector != Selector::kMostRecent) {
        return absl::InvalidArgumentError("unknown selector");
      }
      if (order.first_position > order.end_position) {
        return absl::InvalidArgumentError("a segment ends before it begins");
      }
    }
    palimpsest::Anneal(memory_, sequences, orders, *team_);
    return absl::OkStatus();
  }

  absl::Status Zero(PageOffset offset, uint64_t bytes) override {
    KV_RETURN_IF_ERROR(CheckRange(memory_, offset, bytes));
    if (bytes > 0) std::memset(memory_.page(offset), 0, bytes);
    return absl::OkStatus();
  }

  absl::Status ZeroOpenGroup(uint32_t open_group) override {
    if (open_group >= memory_.config().open_groups) {
      return absl::InvalidArgumentError(absl::StrCat("no open group ", open_group));
    }
    std::memset(memory_.open_group(open_group), 0, OpenGroupBytes(memory_.shape()));
    return absl::OkStatus();
  }

  absl::Status Read(PageOffset offset, absl::Span<uint8_t> out) const override {
    KV_RETURN_IF_ERROR(CheckRange(memory_, offset, out.size()));
    if (!out.empty()) std::memcpy(out.data(), memory_.page(offset), out.size());
    return absl::OkStatus();
  }

  absl::Status Synchronize() override { return absl::OkStatus(); }

 private:
  absl::Status CheckInStep(int layer) const {
    if (!in_step_) return absl::FailedPreconditionError("no step has begun");
    return CheckLayer(memory_, layer);
  }

  // What Seal and Anneal orders have in common.
  template <typename Order>
  absl::Status CheckOrders(absl::Span<const SequenceView> sequences,
                           absl::Span<const Order> orders) const {
    KV_RETURN_IF_ERROR(CheckSequences(memory_, sequences));
    std::vector<const SequenceView*> written;
    for (const Order& order : orders) {
      if (order.sequence >= sequences.size()) {
        return absl::InvalidArgumentError(absl::StrCat("no sequence ", order.sequence));
      }
      if (static_cast<int>(order.thought) >= kThoughtCount) {
        return absl::InvalidArgumentError("unknown thought class");
      }
      written.push_back(&sequences[order.sequence]);
    }
    std::sort(written.begin(), written.end());
    written.erase(std::unique(written.begin(), written.end()), written.end());
    return CheckPagesDisjoint(memory_, written);
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
