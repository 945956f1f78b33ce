// SPDX-License-Identifier: Apache-2.0
#include "services/cli/calibrate/query_samples.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/cpu/codec.h"
#include "services/decode/model/counter_random.h"

namespace palimpsest::cli {
namespace {

constexpr uint64_t kSeed = 1;

// values[i] of row `row` as floats.
void ReadRow(ActivationType type, const void* q, size_t row, absl::Span<float> values) {
  if (type == ActivationType::kFloat32) {
    std::memcpy(values.data(), static_cast<const float*>(q) + row * values.size(),
                values.size() * sizeof(float));
    return;
  }
  const auto* bf16 = static_cast<const uint16_t*>(q) + row * values.size();
  std::transform(bf16, bf16 + values.size(), values.begin(), Bf16ToFloat);
}

}  // namespace

QuerySamples::QuerySamples(const ModelConfig& config, uint32_t capacity, int step_tokens_max)
    : query_heads_(config.query_heads),
      head_dim_(config.head_dim),
      capacity_(capacity),
      rotary_(config.rope, config.head_dim, step_tokens_max),
      token_(static_cast<size_t>(config.query_size())),
      queries_(Bytes(config, capacity) / sizeof(uint16_t)) {}

uint64_t QuerySamples::Bytes(const ModelConfig& config, uint32_t capacity) {
  return sizeof(uint16_t) * static_cast<uint64_t>(config.layers) *
         static_cast<uint64_t>(config.query_size()) * capacity;
}

std::optional<uint32_t> QuerySamples::Offer() {
  const uint64_t index = offered_++;
  if (index < capacity_) return static_cast<uint32_t>(index);
  const auto slot =
      static_cast<uint64_t>(CounterUniform(kSeed, index) * static_cast<double>(index + 1));
  if (slot >= capacity_) return std::nullopt;
  return static_cast<uint32_t>(slot);
}

void QuerySamples::BeginStep(std::vector<KeptToken> kept) {
  kept_ = std::move(kept);
  for (size_t i = 0; i < kept_.size(); ++i) {
    rotary_.Set(static_cast<int>(i), kept_[i].position);
  }
}

void QuerySamples::Take(int layer, ActivationType type, const void* q) {
  const auto width = static_cast<size_t>(head_dim_);
  for (size_t i = 0; i < kept_.size(); ++i) {
    ReadRow(type, q, kept_[i].row, absl::MakeSpan(token_));
    rotary_.Unrotate(static_cast<int>(i), query_heads_, token_.data());
    for (int head = 0; head < query_heads_; ++head) {
      const float* from = &token_[head * width];
      const size_t lane = static_cast<size_t>(layer) * query_heads_ + head;
      uint16_t* to = &queries_[(lane * capacity_ + kept_[i].slot) * width];
      std::transform(from, from + width, to, FloatToBf16);
    }
  }
}

uint32_t QuerySamples::count() const {
  return static_cast<uint32_t>(std::min<uint64_t>(offered_, capacity_));
}

absl::Span<const uint16_t> QuerySamples::of(int layer, int query_head) const {
  const auto width = static_cast<size_t>(head_dim_);
  const size_t lane = static_cast<size_t>(layer) * query_heads_ + query_head;
  return absl::MakeConstSpan(queries_).subspan(lane * capacity_ * width, count() * width);
}

}  // namespace palimpsest::cli
