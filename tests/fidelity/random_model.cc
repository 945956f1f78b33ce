// SPDX-License-Identifier: Apache-2.0
#include "tests/fidelity/random_model.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kernels/cpu/codec.h"
#include "services/decode/model/counter_random.h"

namespace palimpsest {
namespace {

// Kinds of draws.
enum : uint64_t { kTopicKey, kTopic, kAsked, kNoise, kCopy, kKeyNoise, kValue, kValueNorm };

constexpr uint64_t kTopics = 24;
constexpr double kCopies = 0.2;  // of the tokens
constexpr float kKeyNoiseScale = 0.6f;
constexpr uint32_t kRunTokens = 48;  // of one sharpness
constexpr float kSharpness[] = {0.15f, 0.5f, 1.5f};

// One number for (layer, head, index).
uint64_t Stream(int layer, int head, uint64_t index) {
  return (index * 1024 + static_cast<uint64_t>(layer)) * 1024 + static_cast<uint64_t>(head);
}

float SharpnessOf(uint32_t position) {
  return kSharpness[MixBits(position / kRunTokens) % std::size(kSharpness)];
}

}  // namespace

RandomModel::RandomModel(const ModelConfig& config, uint64_t seed)
    : config_(config),
      seed_(seed),
      rotary_(config.rope, config.head_dim, kRowsMax),
      q_(size_t(kRowsMax) * config.query_size()),
      k_(size_t(kRowsMax) * config.kv_size()),
      v_(k_.size()),
      out_(q_.size()) {}

double RandomModel::Uniform(uint64_t kind, uint64_t stream) const {
  return CounterUniform(MixBits(seed_ * 64 + kind), stream);
}

float RandomModel::Normal(uint64_t kind, uint64_t stream, int channel) const {
  const uint64_t counter = (stream * 512 + static_cast<uint64_t>(channel)) * 2;
  const double radius = std::sqrt(-2.0 * std::log(1.0 - Uniform(kind, counter)));  // Box-Muller
  return static_cast<float>(radius * std::cos(2.0 * std::numbers::pi * Uniform(kind, counter + 1)));
}

uint64_t RandomModel::TopicOf(uint32_t position) const {
  return static_cast<uint64_t>(Uniform(kTopic, position) * kTopics);
}

void RandomModel::FillQuery(uint64_t draw, float sharpness, int layer, int head, float* out) const {
  const int kv_head = head / (config_.query_heads / config_.kv_heads);
  const auto asked = static_cast<uint64_t>(Uniform(kAsked, Stream(layer, head, draw)) * kTopics);
  for (int c = 0; c < config_.head_dim; ++c) {
    out[c] = sharpness * (2.0f * Normal(kTopicKey, Stream(layer, kv_head, asked), c) +
                          Normal(kNoise, Stream(layer, head, draw), c));
  }
}

void RandomModel::FillKeyAndValue(uint32_t position, int layer, int head, float* key,
                                  float* value) const {
  const uint64_t topic = TopicOf(position);
  const bool copy = Uniform(kCopy, position) < kCopies;
  const uint64_t token = Stream(layer, head, position);
  const double norm = std::exp(1.2 * Normal(kValueNorm, token, 0));
  for (int c = 0; c < config_.head_dim; ++c) {
    key[c] = Normal(kTopicKey, Stream(layer, head, topic), c);
    if (!copy) key[c] += kKeyNoiseScale * Normal(kKeyNoise, token, c);
    value[c] = static_cast<float>(norm) * Normal(kValue, token, c);
  }
}

NewTokens RandomModel::Fill(uint32_t position, uint32_t rows, int layer) {
  const size_t dim = static_cast<size_t>(config_.head_dim);
  for (uint32_t row = 0; row < rows; ++row) {
    const uint32_t at = position + row;
    float* const q = &q_[row * size_t(config_.query_size())];
    float* const k = &k_[row * size_t(config_.kv_size())];
    float* const v = &v_[row * size_t(config_.kv_size())];
    for (int h = 0; h < config_.query_heads; ++h) {
      FillQuery(at, SharpnessOf(at), layer, h, q + h * dim);
    }
    for (int h = 0; h < config_.kv_heads; ++h) {
      FillKeyAndValue(at, layer, h, k + h * dim, v + h * dim);
    }
    rotary_.Set(static_cast<int>(row), at);
    rotary_.Rotate(static_cast<int>(row), config_.query_heads, q);
    rotary_.Rotate(static_cast<int>(row), config_.kv_heads, k);
  }
  return {.q = q_.data(), .k = k_.data(), .v = v_.data()};
}

absl::Status RandomModel::Forward(const StepBatch& batch, Backend& backend,
                                  absl::Span<float> logits) {
  KV_CHECK(batch.rows.size() == 1 && batch.rows[0].count <= kRowsMax);
  const StepRows& rows = batch.rows[0];
  const SequenceView& view = batch.sequences[rows.sequence];
  KV_RETURN_IF_ERROR(backend.BeginStep(batch.sequences, batch.rows));
  const LayerActivations io{.q = q_.data(),
                            .out = out_.data(),
                            .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim))};
  for (int layer = 0; layer < config_.layers; ++layer) {
    const NewTokens tokens = Fill(view.open_position + view.open_count, rows.count, layer);
    KV_RETURN_IF_ERROR(backend.Append(layer, tokens));
    KV_RETURN_IF_ERROR(backend.Attend(layer, io));
    if (batch.observer == nullptr) continue;
    const auto wanted = batch.observer->layers();
    if (std::find(wanted.begin(), wanted.end(), layer) == wanted.end()) continue;
    KV_RETURN_IF_ERROR(batch.observer->AfterAttend(layer, {.q = io.q, .scale = io.scale}));
  }
  std::fill(logits.begin(), logits.end(), 0.0f);
  return absl::OkStatus();
}

absl::Status RandomModel::StartGenerate(const StepBatch& batch, Backend& backend,
                                        absl::Span<const SampleSpec> samples) {
  KV_RETURN_IF_ERROR(chosen_.steps().CheckRoom());
  KV_RETURN_IF_ERROR(Forward(batch, backend, {}));
  const absl::Span<int32_t> tokens = chosen_.Start(samples.size());
  std::fill(tokens.begin(), tokens.end(), 0);
  return absl::OkStatus();
}

QueryCodebook RandomModel::Codebook(uint32_t queries) const {
  QueryCodebook codebook{.layers = config_.layers,
                         .query_heads = config_.query_heads,
                         .head_dim = config_.head_dim,
                         .queries = queries,
                         .data = {},
                         .inverse_frequencies = InverseFrequencies(config_.rope, config_.head_dim)};
  std::vector<float> query(config_.head_dim);
  constexpr uint64_t kFirst = uint64_t{1} << 20;  // beyond all positions
  for (int layer = 0; layer < config_.layers; ++layer) {
    for (int head = 0; head < config_.query_heads; ++head) {
      for (uint32_t i = 0; i < queries; ++i) {
        FillQuery(kFirst + i, kSharpness[i % std::size(kSharpness)], layer, head, query.data());
        for (const float x : query) codebook.data.push_back(FloatToBf16(x));
      }
    }
  }
  return codebook;
}

}  // namespace palimpsest
