// SPDX-License-Identifier: Apache-2.0
// What every Backend must do. A backend joins by compiling *_conformance.cc into its test and
//
//   INSTANTIATE_TEST_SUITE_P(Cpu, BackendConformance,
//                            ConformanceCases(+[] { ...make a DeviceAdapter... }),
//                            ConformanceCaseName);
//
// Backends may be asynchronous: what a call got stays alive, and what it gives is looked at, only
// after Synchronize. What only the device can know may fail the call or the Synchronize after it.
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
    {"GroupOfFive", {.layers = 1, .kv_heads = 2, .head_dim = 128}, 10},
    {"GroupOfSixteen", {.layers = 2, .kv_heads = 1, .head_dim = 64}, 16},
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
  void SetUp() override {
    const ConformanceShape& shape = std::get<1>(GetParam());
    adapter_ = std::get<0>(GetParam())();
    if (!adapter_->supports(shape.shape)) {
      GTEST_SKIP() << "this backend has no kernels for head_dim " << shape.shape.head_dim << ", "
                   << shape.query_heads << " query heads of " << shape.shape.kv_heads
                   << " KV heads";
    }
    device_ = std::make_unique<TestDevice>(adapter_.get(), shape.shape, shape.query_heads);
  }
  TestDevice& device() { return *device_; }
  Backend& backend() { return device_->backend(); }
  // A device like the fixture's with something more.
  template <typename Change>
  TestDevice NewDevice(const Change& change) {
    BackendConfig config = device_->config();
    change(config);
    return TestDevice(adapter_.get(), config);
  }
  ModelSequence NewSequence(const ClassFormats& formats, uint32_t open_group, uint64_t seed) {
    return ModelSequence(device_.get(), formats, open_group, seed);
  }

  std::unique_ptr<DeviceAdapter> adapter_;

 private:
  std::unique_ptr<TestDevice> device_;
};

}  // namespace palimpsest
