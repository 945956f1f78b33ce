// SPDX-License-Identifier: Apache-2.0
#include "common/policy/policy_choice.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace palimpsest {
namespace {

using testing::HasSubstr;

constexpr ClassFormats kFp8 = ClassFormats::Uniform({Format::kFp8, Format::kFp8});

PolicySpec TenantsOwn() {
  PolicySpec spec = *DefaultSpec("anticipate");
  spec.budget_tokens = 320;
  spec.formats = kFp8;
  return spec;
}

TEST(PolicyChoice, NothingSaidIsWhatWouldBeOtherwise) {
  EXPECT_EQ(*Filled({}, TenantsOwn()), TenantsOwn());
}

TEST(PolicyChoice, WhatIsSaidWithoutANameChangesThatAlone) {
  PolicySpec expected = TenantsOwn();
  expected.budget_tokens = 64;
  EXPECT_EQ(*Filled({.budget_tokens = 64}, TenantsOwn()), expected);
  expected = TenantsOwn();
  expected.window_tokens = 128;
  expected.retention = {8, 4};
  EXPECT_EQ(*Filled({.window_tokens = 128, .retention = {8, 4}}, TenantsOwn()), expected);
}

TEST(PolicyChoice, ANamedPolicyIsFilledFromItsOwnDefaults) {
  EXPECT_EQ(*Filled({.name = "rkv"}, TenantsOwn()), *DefaultSpec("rkv"));
  EXPECT_EQ(*Filled({.name = "anticipate"}, TenantsOwn()), *DefaultSpec("anticipate"));
  const PolicySpec full = *Filled({.name = "full", .formats = kFp8}, TenantsOwn());
  EXPECT_EQ(full.budget_tokens, DefaultSpec("full")->budget_tokens);
  EXPECT_EQ(full.formats, kFp8);
}

TEST(PolicyChoice, OneThatLeavesNothingOutComesBackAsItWas) {
  for (const std::string& name : PolicyNames()) {
    PolicySpec spec = *DefaultSpec(name);
    spec.sparsity_layers = {1, 3};
    spec.theta = {0.25f, 0.5f};
    EXPECT_EQ(*Filled(ChoiceOf(spec), TenantsOwn()), spec);
  }
}

TEST(PolicyChoice, AnUnknownNameIsAnsweredWithTheNames) {
  const absl::Status status = Filled({.name = "thinkv2"}, TenantsOwn()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("expected one of anticipate, full"));
}

TEST(PolicyChoice, ASpecIsDescribedByWhatItHolds) {
  EXPECT_EQ(Described(TenantsOwn()), "anticipate k=320 window=32 fp8");
  EXPECT_EQ(Described(*DefaultSpec("full")), "full bf16");
}

}  // namespace
}  // namespace palimpsest
