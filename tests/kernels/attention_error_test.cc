// SPDX-License-Identifier: Apache-2.0
// What each format costs in attention: against fp64 over the original tokens (format error) and
// over the de-quantised ones (kernel error). Bounds and their origin: tolerances.h.
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/codec.h"
#include "tests/kernels/conformance/cpu_adapter.h"
#include "tests/kernels/sequence_model.h"

namespace palimpsest {
namespace {

constexpr int kTokens = 1024;
constexpr int kQueries = 16;

struct Errors {
  double kernel = 0;  // largest, as a share of the largest |V|
  double format = 0;  // relative, Euclidean
};

// Keys as models have them: Gaussian, two channels of 64 five times as large and off centre (the
// same ones for every token), values Gaussian. A query leans on one random token, so that the
// softmax is neither flat nor a single spike.
struct Realistic {
  explicit Realistic(int head_dim) {
    for (int t = 0; t < kTokens; ++t) {
      auto& k = keys.emplace_back(head_dim);
      auto& v = values.emplace_back(head_dim);
      for (int c = 0; c < head_dim; ++c) {
        const bool outlier = c % 32 == 5;
        k[c] = (outlier ? 2.5f : 1.0f) * normal(engine) + (outlier ? 5.0f : 0.0f);
        v[c] = 0.5f * normal(engine);
      }
    }
    for (int i = 0; i < kQueries; ++i) {
      auto& q = queries.emplace_back(head_dim);
      const auto& target = keys[engine() % kTokens];
      for (int c = 0; c < head_dim; ++c) {
        const bool outlier = c % 32 == 5;
        q[c] = normal(engine) + (outlier ? 0.1f : 0.6f) * target[c];
      }
    }
  }
  std::mt19937 engine{7};
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> keys, values, queries;
};

template <typename Vector>
reference::Vector Wide(const Vector& x) {
  return {x.begin(), x.end()};
}

Errors Measure(PageFormat format, int head_dim) {
  const Realistic data(head_dim);
  const CacheShape shape{.layers = 1, .kv_heads = 1, .head_dim = head_dim};
  const PageLayout layout = MakePageLayout(shape, format);
  const BackendConfig config{.shape = shape,
                             .query_heads = 1,
                             .pool_bytes = layout.page_bytes * (kTokens / 16 + 1),
                             .open_groups = 1};
  auto backend = *NewCpuBackend(config, 2);
  std::vector<PageOffset> pages;
  SequenceView view{.formats = ClassFormats::Uniform(format), .open_group = 0};
  LayerActivations io{.scale = 1 / std::sqrt(static_cast<float>(head_dim))};
  std::vector<reference::Token> exact, stored;
  const auto append = [&](uint32_t token) {
    const StepRows rows{.count = 1};
    EXPECT_EQ(backend->BeginStep({&view, 1}, {&rows, 1}), absl::OkStatus());
    EXPECT_EQ(backend->Append(0, {.k = data.keys[token].data(), .v = data.values[token].data()}),
              absl::OkStatus());
    exact.push_back({token, Wide(data.keys[token]), Wide(data.values[token])});
  };
  const auto through = [&](Format f, std::vector<float> x) {  // the open group, then the page
    for (float& value : x) value = Bf16ToFloat(FloatToBf16(value));
    std::vector<uint8_t> bytes(2 * head_dim), scales(head_dim);
    std::vector<float> out(head_dim);
    EncodeSlot(f, x.data(), head_dim, bytes.data(), scales.data());
    DecodeSlot(f, bytes.data(), scales.data(), head_dim, out.data());
    return Wide(out);
  };
  for (uint32_t t = 0; t < kTokens; ++t) {
    append(t);
    stored.push_back({t, through(format.k, data.keys[t]), through(format.v, data.values[t])});
    if (++view.open_count < kGroupTokens) continue;
    pages.push_back(pages.size() * layout.page_bytes);
    view.pages[Index(Thought::kReasoning)] = pages;
    const SealOrder order{.thought = Thought::kReasoning};
    EXPECT_EQ(backend->Seal({&view, 1}, {&order, 1}), absl::OkStatus());
    view.open_count = 0;
    view.open_position += kGroupTokens;
  }
  append(0);  // a step's own token is always there
  stored.push_back(
      {0, through(Format::kBf16, data.keys[0]), through(Format::kBf16, data.values[0])});

  Errors errors;
  double difference = 0, norm = 0, largest = 0;
  for (const auto& token : stored) {
    for (const double v : token.v) largest = std::max(largest, std::fabs(v));
  }
  for (const auto& q : data.queries) {
    std::vector<float> out(head_dim);
    io.q = q.data();
    io.out = out.data();
    EXPECT_EQ(backend->Attend(0, io), absl::OkStatus());
    const auto truth = reference::Attention(Wide(q), exact, io.scale);
    const auto same = reference::Attention(Wide(q), stored, io.scale);
    for (int c = 0; c < head_dim; ++c) {
      errors.kernel = std::max(errors.kernel, std::fabs(out[c] - same[c]) / largest);
      difference += (out[c] - truth[c]) * (out[c] - truth[c]);
      norm += truth[c] * truth[c];
    }
  }
  errors.format = std::sqrt(difference / norm);
  return errors;
}

TEST(AttentionError, StaysWithinWhatIsStatedForEachFormat) {
  for (const int head_dim : {64, 128}) {
    for (const Format format : kFormats) {
      const Errors both = Measure({format, format}, head_dim);
      const Errors keys = Measure({format, Format::kBf16}, head_dim);
      const Errors values = Measure({Format::kBf16, format}, head_dim);
      std::printf(
          "head_dim %3d %-8s kernel %.1e  format: K and V %.4f, K alone %.4f, V alone %.4f\n",
          head_dim, std::string(Name(format)).c_str(), both.kernel, both.format, keys.format,
          values.format);
      EXPECT_LE(both.kernel, kCpuKernelError) << Name(format);
      EXPECT_LE(both.format, FormatError(format)) << Name(format);
      // The formats differ by what they should: a bound far too wide would hide a broken one.
      EXPECT_GE(both.format, FormatError(format) / 2) << Name(format);
    }
  }
}

}  // namespace
}  // namespace palimpsest
