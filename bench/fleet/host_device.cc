// SPDX-License-Identifier: Apache-2.0
#include "bench/fleet/host_device.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "common/base/status_macros.h"
#include "kernels/checks.h"
#include "kernels/cuda/page_entries.h"
#include "services/decode/model/counter_random.h"
#include "services/decode/model/step_checks.h"

namespace palimpsest::bench {
namespace {

// Adds the time until its end to `seconds`.
class Stopwatch {
 public:
  explicit Stopwatch(double* seconds) : seconds_(seconds) {}
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() { *seconds_ += CpuSeconds() - begin_; }

 private:
  double* const seconds_;
  const double begin_ = CpuSeconds();
};

// The grid of kernels/cuda/attend.cu on an H100.
cuda::AttendGeometry H100Geometry(const PoolLayout& pool) {
  return cuda::WithBounds({.cta_count = 132, .warps_per_cta = 12, .queries_max = 8}, pool.shape(),
                          pool.config().query_heads, pool.config().rows_max, pool.sequences_max());
}

}  // namespace

double CpuSeconds() {
  timespec now{};
  (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

HostBackend::HostBackend(const BackendConfig& config)
    : layout_(config), writer_(layout_, H100Geometry(layout_)), tables_(writer_.bytes_max()) {
  entries_.resize(layout_.pages_max());
  if (writer_.layer_plans() != nullptr) plans_.resize(writer_.layer_plans()->bytes());
}

HostSeconds HostBackend::TakeSeconds() { return std::exchange(seconds_, {}); }

absl::Status HostBackend::BeginStep(absl::Span<const SequenceView> sequences,
                                    absl::Span<const StepRows> rows) {
  const Stopwatch watch(&seconds_.begin_step);
  KV_RETURN_IF_ERROR(CheckSequences(layout_, sequences));
  KV_RETURN_IF_ERROR(CheckRows(layout_, sequences, rows));
  uneven_rows_ = UnevenRows(sequences, rows);
  KV_RETURN_IF_ERROR(writer_.Write(layout_, sequences, rows, tables_.data()).status());
  const cuda::LayerRange due = writer_.due_layers();
  layers_planned_ += due.count;
  if (due.count > 0) writer_.layer_plans()->Plan(due, plans_.data());
  return absl::OkStatus();
}

absl::Status HostBackend::MeasureSparsity(int, absl::Span<const uint32_t> wanted,
                                          const LayerActivations&, absl::Span<float> sparsity) {
  std::fill(sparsity.begin(), sparsity.end(), 0.0f);
  return CheckWanted(wanted, uneven_rows_, sparsity.size());
}

template <typename Order>
void HostBackend::StagePages(absl::Span<const SequenceView> sequences,
                             absl::Span<const Order> orders) {
  cuda::ClassPages pages(sequences, entries_.data());
  for (const Order& order : orders) pages.Put(order.sequence, order.thought);
}

absl::Status HostBackend::Seal(absl::Span<const SequenceView> sequences,
                               absl::Span<const SealOrder> orders) {
  const Stopwatch watch(&seconds_.seal);
  KV_RETURN_IF_ERROR(CheckSeal(layout_, sequences, orders));
  StagePages(sequences, orders);
  return absl::OkStatus();
}

absl::Status HostBackend::Anneal(absl::Span<const SequenceView> sequences,
                                 absl::Span<const AnnealOrder> orders) {
  const Stopwatch watch(&seconds_.anneal);
  KV_RETURN_IF_ERROR(CheckAnneal(layout_, sequences, orders));
  StagePages(sequences, orders);
  return absl::OkStatus();
}

absl::Status HostBackend::Read(PageOffset, absl::Span<uint8_t>) const {
  return absl::UnimplementedError("there are no pages");
}

absl::Status HostModel::Forward(const StepBatch&, Backend&, absl::Span<float>) {
  return absl::UnimplementedError("there are no logits");
}

absl::Status HostModel::StartGenerate(const StepBatch& batch, Backend& backend,
                                      absl::Span<const SampleSpec> samples) {
  KV_RETURN_IF_ERROR(CheckStart(*this, batch, samples.size(), chosen_.steps()));
  KV_RETURN_IF_ERROR(backend.BeginStep(batch.sequences, batch.rows));
  const absl::Span<int32_t> tokens = chosen_.Start(samples.size());
  for (size_t i = 0; i < samples.size(); ++i) {
    const double draw = CounterUniform(samples[i].params.seed, samples[i].position);
    tokens[i] = static_cast<int32_t>(draw * config_.vocab_size);
  }
  if (batch.observer != nullptr) {
    for (const int layer : batch.observer->layers()) {
      KV_RETURN_IF_ERROR(batch.observer->AfterAttend(layer, {}));
    }
  }
  return absl::OkStatus();
}

}  // namespace palimpsest::bench
