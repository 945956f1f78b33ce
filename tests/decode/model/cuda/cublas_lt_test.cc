// SPDX-License-Identifier: Apache-2.0
// Needs the library, not a GPU.
#include "services/decode/model/cuda/cublas_lt.h"

#include <cublasLt.h>

#include <string>

#include "gtest/gtest.h"

namespace palimpsest::cuda {
namespace {

TEST(CublasLt, IsLoadedOnDemandOrSaysWhereItWasLookedFor) {
  const absl::Status loaded = LoadCublasLt();
  if (!loaded.ok()) {
    EXPECT_EQ(loaded.code(), absl::StatusCode::kUnavailable);
    EXPECT_NE(std::string(loaded.message()).find("LD_LIBRARY_PATH"), std::string::npos);
    GTEST_SKIP() << loaded.message();
  }
  // The library's own words, so the calls arrive there.
  EXPECT_STREQ(cublasLtGetStatusString(CUBLAS_STATUS_ALLOC_FAILED),
               "the resource allocation failed");
  cublasLtMatmulDesc_t desc = nullptr;
  ASSERT_EQ(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasLtMatmulDescDestroy(desc), CUBLAS_STATUS_SUCCESS);
}

}  // namespace
}  // namespace palimpsest::cuda
