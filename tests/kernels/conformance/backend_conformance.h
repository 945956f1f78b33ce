// SPDX-License-Identifier: Apache-2.0
// What every Backend must do. A backend joins by compiling backend_conformance.cc into its test and
//
//   INSTANTIATE_TEST_SUITE_P(Cpu, BackendConformance,
//                            ConformanceCases(+[] { ...make a DeviceAdapter... }),
//                            ConformanceCaseName);
#pragma once

#include <memory>
#include <string>
#include <tuple>

#include "gtest/gtest.h"
#include "tests/kernels/conformance/device_adapter.h"
#include "tests/kernels/sequence_model.h"

namespace palimpsest {

struct ConformanceShape {
  const char* name;
  CacheShape shape;
  int query_heads;
};
inline constexpr ConformanceShape kConformanceShapes[] = {
    {"Reasoner", {.layers = 2, .kv_heads = 2, .head_dim = 64}, 4},
    {"SmolLm2", {.layers = 2, .kv_heads = 3, .head_dim = 64}, 9},
    {"WideHeads", {.layers = 1, .kv_heads = 2, .head_dim = 128}, 8},
    {"OddHeads", {.layers = 3, .kv_heads = 1, .head_dim = 48}, 1},
};

using ConformanceCase = std::tuple<NewAdapter, ConformanceShape>;

inline auto ConformanceCases(NewAdapter adapter) {
  return ::testing::Combine(::testing::Values(adapter), ::testing::ValuesIn(kConformanceShapes));
}
inline std::string ConformanceCaseName(const ::testing::TestParamInfo<ConformanceCase>& info) {
  return std::get<1>(info.param).name;
}

class BackendConformance : public ::testing::TestWithParam<ConformanceCase> {
 protected:
  BackendConformance()
      : adapter_(std::get<0>(GetParam())()),
        device_(adapter_.get(), std::get<1>(GetParam()).shape,
                std::get<1>(GetParam()).query_heads) {}

  std::unique_ptr<DeviceAdapter> adapter_;
  TestDevice device_;
};

}  // namespace palimpsest
