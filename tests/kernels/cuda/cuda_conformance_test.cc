// SPDX-License-Identifier: Apache-2.0
#include "tests/kernels/conformance/backend_conformance.h"
#include "tests/kernels/cuda/cuda_adapter.h"

namespace palimpsest {
namespace {

std::unique_ptr<DeviceAdapter> NewCudaAdapter() { return std::make_unique<CudaAdapter>(); }

// The shapes there are kernels for; none without a GPU, of which the test below tells then.
std::vector<ConformanceShape> Shapes() {
  std::vector<ConformanceShape> shapes;
  if (!GpuStatus().ok()) return shapes;
  for (const ConformanceShape& shape : kConformanceShapes) {
    if (CudaAdapter().supports(shape.shape)) shapes.push_back(shape);
  }
  shapes.push_back({"EightB", {.layers = 2, .kv_heads = 8, .head_dim = 128}, 32});
  return shapes;
}

INSTANTIATE_TEST_SUITE_P(Cuda, BackendConformance,
                         ::testing::Combine(::testing::Values(&NewCudaAdapter),
                                            ::testing::ValuesIn(Shapes())),
                         ConformanceCaseName);

// Nor is it an error then that there are none.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BackendConformance);

using CudaConformance = GpuTest;

TEST_F(CudaConformance, HeadDimsWithoutKernelsAreRefusedByName) {
  const auto backend = NewCudaBackend({.shape = {.layers = 1, .kv_heads = 1, .head_dim = 48},
                                       .query_heads = 1,
                                       .pool_bytes = 1 << 20,
                                       .open_groups = 1},
                                      {});
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(backend.status().message().find("head_dim 48"), std::string::npos) << backend.status();
}

}  // namespace
}  // namespace palimpsest
