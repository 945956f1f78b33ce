// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/key_rotation.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace palimpsest {
namespace {

using testing::HasSubstr;

ModelConfig WithHeadsOf(int dim) {
  ModelConfig config;
  config.head_dim = dim;
  return config;
}

TEST(KeyRotation, IsOnByItselfWhereHeadsAreAPowerOfTwo) {
  for (const int dim : {64, 80, 96, 128}) {
    const ModelConfig config = WithHeadsOf(dim);
    const bool power = dim == 64 || dim == 128;
    EXPECT_EQ(*RotatesKeys(KeyRotation::kAuto, config), power) << dim;
    EXPECT_FALSE(*RotatesKeys(KeyRotation::kOff, config)) << dim;
  }
}

TEST(KeyRotation, ThatCannotBeIsRefused) {
  EXPECT_TRUE(*RotatesKeys(KeyRotation::kOn, WithHeadsOf(64)));
  const absl::Status status = RotatesKeys(KeyRotation::kOn, WithHeadsOf(96)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("heads of 96 channels cannot be rotated, only of a power of two"));
}

}  // namespace
}  // namespace palimpsest
