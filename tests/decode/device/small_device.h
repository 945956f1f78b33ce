// SPDX-License-Identifier: Apache-2.0
// A small model to make devices of, and a step that shows that they work.
#pragma once

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

// One step of two tokens, through both.
inline void ExpectWorks(Device& device) {
  const std::vector<int32_t> tokens = {5, 6};
  const SequenceView view{.open_group = 1};
  const StepRows rows{.count = 2};
  const std::vector<uint32_t> wanted = {1};
  const std::vector<SampleSpec> greedy(1);
  std::vector<int32_t> chosen = {kNoToken};
  EXPECT_EQ(
      device.model->Generate(
          {.tokens = tokens, .sequences = {&view, 1}, .rows = {&rows, 1}, .logit_rows = wanted},
          *device.backend, greedy, absl::MakeSpan(chosen)),
      absl::OkStatus());
  EXPECT_GE(chosen[0], 0);
}

}  // namespace palimpsest
