// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "common/base/check.h"

namespace palimpsest {
namespace {

// Llama 3.1: long wavelengths are slowed by `factor`, short ones kept, those between blended.
double ScaleLlama3(const RopeConfig& rope, double frequency) {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  const double low_wavelength = rope.original_max_positions / rope.low_freq_factor;
  const double high_wavelength = rope.original_max_positions / rope.high_freq_factor;
  if (wavelength < high_wavelength) return frequency;
  if (wavelength > low_wavelength) return frequency / rope.factor;
  const double smooth = (rope.original_max_positions / wavelength - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  return (1.0 - smooth) * frequency / rope.factor + smooth * frequency;
}

// YaRN (arXiv 2309.00071, section 3.2): a ramp over channel pairs from "kept" to "interpolated".
void ScaleYarn(const RopeConfig& rope, int head_dim, std::vector<float>* frequencies) {
  const auto pair_of = [&](double rotations) {
    return head_dim * std::log(rope.original_max_positions / (rotations * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(rope.theta));
  };
  double low = pair_of(rope.beta_fast);
  double high = pair_of(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, head_dim - 1.0);
  if (low == high) high += 0.001;  // transformers does this too
  for (size_t i = 0; i < frequencies->size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double kept = (*frequencies)[i];
    (*frequencies)[i] = static_cast<float>(kept / rope.factor * ramp + kept * (1.0 - ramp));
  }
}

}  // namespace

std::vector<float> InverseFrequencies(const RopeConfig& rope, int head_dim) {
  std::vector<float> frequencies(head_dim / 2);
  for (int i = 0; i < head_dim / 2; ++i) {
    double frequency = 1.0 / std::pow(rope.theta, 2.0 * i / head_dim);
    if (rope.scaling == RopeScaling::kLinear) frequency /= rope.factor;
    if (rope.scaling == RopeScaling::kLlama3) frequency = ScaleLlama3(rope, frequency);
    frequencies[i] = static_cast<float>(frequency);
  }
  if (rope.scaling == RopeScaling::kYarn) ScaleYarn(rope, head_dim, &frequencies);
  return frequencies;
}

RotaryTable::RotaryTable(const RopeConfig& rope, int head_dim, int rows_max)
    : half_dim_(head_dim / 2),
      attention_factor_(static_cast<float>(rope.attention_factor)),
      inverse_frequencies_(InverseFrequencies(rope, head_dim)),
      cos_(static_cast<size_t>(rows_max) * half_dim_),
      sin_(static_cast<size_t>(rows_max) * half_dim_) {}

void RotaryTable::Set(int row, uint32_t position) {
  const size_t start = static_cast<size_t>(row) * half_dim_;
  KV_CHECK(start + half_dim_ <= cos_.size());
  for (int i = 0; i < half_dim_; ++i) {
    const float angle = static_cast<float>(position) * inverse_frequencies_[i];
    cos_[start + i] = std::cos(angle) * attention_factor_;
    sin_[start + i] = std::sin(angle) * attention_factor_;
  }
}

absl::Span<const float> RotaryTable::cosines(int row) const {
  return absl::MakeConstSpan(cos_).subspan(static_cast<size_t>(row) * half_dim_, half_dim_);
}

absl::Span<const float> RotaryTable::sines(int row) const {
  return absl::MakeConstSpan(sin_).subspan(static_cast<size_t>(row) * half_dim_, half_dim_);
}

void RotaryTable::Rotate(int row, int heads, float* x) const {
  const float* cos = &cos_[static_cast<size_t>(row) * half_dim_];
  const float* sin = &sin_[static_cast<size_t>(row) * half_dim_];
  for (int head = 0; head < heads; ++head) {
    float* low = x + static_cast<size_t>(head) * 2 * half_dim_;
    float* high = low + half_dim_;
    for (int i = 0; i < half_dim_; ++i) {
      const float a = low[i];
      const float b = high[i];
      low[i] = a * cos[i] - b * sin[i];
      high[i] = b * cos[i] + a * sin[i];
    }
  }
}

void RotaryTable::Unrotate(int row, int heads, float* x) const {
  const float* cos = &cos_[static_cast<size_t>(row) * half_dim_];
  const float* sin = &sin_[static_cast<size_t>(row) * half_dim_];
  // The tables hold the factor once, and Rotate has applied it once.
  const float scale = 1.0f / (attention_factor_ * attention_factor_);
  for (int head = 0; head < heads; ++head) {
    float* low = x + static_cast<size_t>(head) * 2 * half_dim_;
    float* high = low + half_dim_;
    for (int i = 0; i < half_dim_; ++i) {
      const float a = low[i];
      const float b = high[i];
      low[i] = (a * cos[i] + b * sin[i]) * scale;
      high[i] = (b * cos[i] - a * sin[i]) * scale;
    }
  }
}

}  // namespace palimpsest
