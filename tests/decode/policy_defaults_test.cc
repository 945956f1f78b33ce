// SPDX-License-Identifier: Apache-2.0
#include "services/decode/policy_defaults.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace palimpsest {
namespace {

using testing::HasSubstr;

ServedPolicies Serving(std::vector<std::string> wanted, bool has_codebook) {
  return *ServePolicies(wanted, has_codebook);
}

TEST(PolicyDefaults, AreAnticipateWhereThereIsACodebookElseThinkvElseTheFirstServed) {
  const auto of = [](std::vector<std::string> wanted, bool has_codebook) {
    return ChooseDefaults({}, {}, Serving(std::move(wanted), has_codebook))->worker;
  };
  EXPECT_EQ(of({}, true), *DefaultSpec("anticipate"));
  EXPECT_EQ(of({}, false), *DefaultSpec("thinkv"));
  EXPECT_EQ(of({"full", "rkv", "anticipate"}, true), *DefaultSpec("anticipate"));
  EXPECT_EQ(of({"full", "thinkv"}, true), *DefaultSpec("thinkv"));
  EXPECT_EQ(of({"rkv", "full"}, false), *DefaultSpec("rkv"));
}

TEST(PolicyDefaults, SayWhy) {
  EXPECT_EQ(ChooseDefaults({}, {}, Serving({}, true))->because, "there is a codebook");
  EXPECT_THAT(ChooseDefaults({}, {}, Serving({}, false))->because,
              HasSubstr("`palimpsest calibrate` makes one"));
  EXPECT_EQ(ChooseDefaults({.name = "full"}, {}, Serving({}, true))->because, "it was chosen");
}

TEST(PolicyDefaults, WhatTheSettingsLeaveOutIsThePolicysOwn) {
  PolicySpec expected = *DefaultSpec("anticipate");
  expected.budget_tokens = 256;
  EXPECT_EQ(ChooseDefaults({.budget_tokens = 256}, {}, Serving({}, true))->worker, expected);
  expected = *DefaultSpec("window");
  expected.window_tokens = 32;
  EXPECT_EQ(ChooseDefaults({.name = "window", .window_tokens = 32}, {}, Serving({}, true))->worker,
            expected);
}

TEST(PolicyDefaults, ATenantHasItsOwnAndTheOthersTheWorkers) {
  const PolicyDefaults defaults =
      *ChooseDefaults({.budget_tokens = 512},
                      {{"acme", {.name = "full"}},
                       {"batch", {.formats = ClassFormats::Uniform({Format::kFp8, Format::kFp8})}}},
                      Serving({}, true));
  EXPECT_EQ(Described(defaults.of("acme")), "full bf16");
  EXPECT_EQ(Described(defaults.of("batch")), "anticipate k=512 window=64 fp8");
  EXPECT_EQ(defaults.of("default"), defaults.worker);
  EXPECT_EQ(defaults.of(""), defaults.worker);
}

TEST(PolicyDefaults, ATenantThatCannotBeServedIsNamedWithTheField) {
  const auto refusal = [](const PolicyChoice& choice) {
    return std::string(
        ChooseDefaults({}, {{"acme", choice}}, Serving({}, true)).status().message());
  };
  EXPECT_EQ(refusal({.name = "h2o"}),
            "tenants: acme: policy: 'h2o' is not served; allowed: anticipate, full, random, "
            "thinkv, window. --policies says which are");
  EXPECT_THAT(refusal({.window_tokens = 40}),
              HasSubstr("tenants: acme: window_tokens 40: expected a multiple of 16"));
  EXPECT_THAT(refusal({.budget_tokens = 16}), HasSubstr("tenants: acme: budget_tokens 16"));
}

TEST(PolicyDefaults, WhatCannotBeIsRefusedByName) {
  const auto refusal = [](const PolicyChoice& choice) {
    const absl::Status status = ChooseDefaults(choice, {}, Serving({}, true)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(refusal({.name = "rkv"}),
            "default_policy: policy: 'rkv' is not served; allowed: anticipate, full, random, "
            "thinkv, window. --policies says which are");
  EXPECT_THAT(refusal({.budget_tokens = 8}),
              HasSubstr("default_policy: budget_tokens 8: expected 16 to"));
  EXPECT_THAT(refusal({.window_tokens = 40}), HasSubstr("expected a multiple of 16"));
}

}  // namespace
}  // namespace palimpsest
