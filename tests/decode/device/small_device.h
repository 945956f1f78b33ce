// SPDX-License-Identifier: Apache-2.0
// A small model to make devices of, and a step that shows that they work.
#pragma once

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"
#include "services/decode/device/device.h"

namespace palimpsest {

inline DeviceOptions Options(DeviceKind kind) {
  return {.choice = {.kind = kind},
          .source = *FindModel("tests/decode/model/data/qwen2", ""),
          .pool_bytes = 1 << 20,
          .open_groups = 2,
          .rows_max = 32,
          .logit_rows_max = 2};
}

// Reads layer 1's queries.
class QueryReader final : public LayerObserver {
 public:
  explicit QueryReader(const Device& device) : device_(device) {}

  absl::Span<const int> layers() const override { return layers_; }

  absl::Status AfterAttend(int, const LayerActivations& io) override {
    return device_.read_activations(io.q, absl::MakeSpan(bytes));
  }

  std::vector<uint8_t> bytes;

 private:
  const Device& device_;
  const std::vector<int> layers_ = {1};
};

// One step of two tokens, through both. An observer can read what it is shown.
inline void ExpectWorks(Device& device) {
  const std::vector<int32_t> tokens = {5, 6};
  const SequenceView view{.open_group = 1};
  const StepRows rows{.count = 2};
  const std::vector<uint32_t> wanted = {1};
  const std::vector<SampleSpec> greedy(1);
  std::vector<int32_t> chosen = {kNoToken};
  QueryReader reader(device);
  const bool is_float = device.backend->activation_type() == ActivationType::kFloat32;
  const size_t row_bytes = device.model->config().query_size() * (is_float ? 4 : 2);
  reader.bytes.resize(2 * row_bytes);
  EXPECT_EQ(device.model->Generate({.tokens = tokens,
                                    .sequences = {&view, 1},
                                    .rows = {&rows, 1},
                                    .logit_rows = wanted,
                                    .observer = &reader},
                                   *device.backend, greedy, absl::MakeSpan(chosen)),
            absl::OkStatus());
  EXPECT_GE(chosen[0], 0);
  for (const size_t row : {0, 1}) {
    const auto first = reader.bytes.begin() + row * row_bytes;
    EXPECT_TRUE(std::any_of(first, first + row_bytes, [](uint8_t byte) { return byte != 0; }));
  }
}

}  // namespace palimpsest
