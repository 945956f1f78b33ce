// SPDX-License-Identifier: Apache-2.0
// A backend that keeps K and V of every token in float and attends over all of them in double: what
// a model is tested against, so that an error in a test is the model's own. A sequence is known by
// its open_group. Seal forgets nothing, because nothing is ever quantised.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "services/decode/model/model_config.h"

namespace palimpsest {

class ExactBackend : public Backend {
 public:
  explicit ExactBackend(const ModelConfig& config)
      : shape_(config.cache_shape()), query_heads_(config.query_heads) {}

  ActivationType activation_type() const override { return ActivationType::kFloat32; }

  absl::Status BeginStep(absl::Span<const SequenceView> sequences,
                         absl::Span<const StepRows> rows) override {
    sequences_.assign(sequences.begin(), sequences.end());
    rows_.assign(rows.begin(), rows.end());
    return absl::OkStatus();
  }

  absl::Status Append(int layer, const NewTokens& tokens) override {
    const size_t width = static_cast<size_t>(shape_.kv_heads) * shape_.head_dim;
    for (const StepRows& part : rows_) {
      const SequenceView& view = sequences_[part.sequence];
      Lane& lane = lanes_[{layer, view.open_group}];
      const size_t first = (view.open_position + view.open_count) * width;
      lane.k.resize(first);
      lane.v.resize(first);
      const float* k = static_cast<const float*>(tokens.k) + part.row * width;
      const float* v = static_cast<const float*>(tokens.v) + part.row * width;
      lane.k.insert(lane.k.end(), k, k + part.count * width);
      lane.v.insert(lane.v.end(), v, v + part.count * width);
    }
    return absl::OkStatus();
  }

  absl::Status Attend(int layer, const LayerActivations& io) override {
    for (const StepRows& part : rows_) {
      const SequenceView& view = sequences_[part.sequence];
      for (uint32_t i = 0; i < part.count; ++i) {
        const size_t tokens = view.open_position + view.open_count + i + 1;
        AttendRow(lanes_[{layer, view.open_group}], tokens, part.row + i, io);
      }
    }
    return absl::OkStatus();
  }

  absl::Status MeasureSparsity(int, absl::Span<const uint32_t>, const LayerActivations&,
                               absl::Span<float>) override {
    return absl::UnimplementedError("ExactBackend measures nothing");
  }
  absl::Status Seal(absl::Span<const SequenceView>, absl::Span<const SealOrder>) override {
    return absl::OkStatus();
  }
  absl::Status Anneal(absl::Span<const SequenceView>, absl::Span<const AnnealOrder>) override {
    return absl::UnimplementedError("ExactBackend keeps everything");
  }
  absl::Status Zero(PageOffset, uint64_t) override { return absl::OkStatus(); }
  absl::Status ZeroOpenGroup(uint32_t) override { return absl::OkStatus(); }
  absl::Status Read(PageOffset, absl::Span<uint8_t>) const override {
    return absl::UnimplementedError("ExactBackend has no pages");
  }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::Status AwaitSparsity() override { return absl::OkStatus(); }

 private:
  struct Lane {
    std::vector<float> k, v;  // [tokens, kv_heads, head_dim]
  };

  void AttendRow(const Lane& lane, size_t tokens, size_t row, const LayerActivations& io) const {
    const size_t dim = shape_.head_dim;
    const size_t width = shape_.kv_heads * dim;
    std::vector<double> weight(tokens);
    for (int head = 0; head < query_heads_; ++head) {
      const size_t kv = static_cast<size_t>(head) / (query_heads_ / shape_.kv_heads) * dim;
      const size_t at = (row * query_heads_ + head) * dim;
      const float* q = static_cast<const float*>(io.q) + at;
      double best = -HUGE_VAL;
      for (size_t t = 0; t < tokens; ++t) {
        weight[t] = Dot(q, &lane.k[t * width + kv], dim) * io.scale;
        best = std::max(best, weight[t]);
      }
      double sum = 0;
      std::vector<double> value(dim, 0.0);
      for (size_t t = 0; t < tokens; ++t) {
        const double share = std::exp(weight[t] - best);
        sum += share;
        for (size_t d = 0; d < dim; ++d) value[d] += share * lane.v[t * width + kv + d];
      }
      float* out = static_cast<float*>(io.out) + at;
      for (size_t d = 0; d < dim; ++d) out[d] = static_cast<float>(value[d] / sum);
    }
  }

  // head_dim is a multiple of 16; sixteen partial sums let the compiler vectorise.
  static double Dot(const float* a, const float* b, size_t size) {
    double partial[16] = {};
    for (size_t d = 0; d < size; d += 16) {
      for (int i = 0; i < 16; ++i) partial[i] += double{a[d + i]} * b[d + i];
    }
    return std::accumulate(partial, partial + 16, 0.0);
  }

  const CacheShape shape_;
  const int query_heads_;
  std::vector<SequenceView> sequences_;
  std::vector<StepRows> rows_;
  std::map<std::pair<int, uint32_t>, Lane> lanes_;  // by (layer, open group)
};

}  // namespace palimpsest
