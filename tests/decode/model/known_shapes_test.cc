// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/known_shapes.h"

#include <map>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace palimpsest {
namespace {

TEST(KnownShapes, HaveTheParameterCountsThatWerePublished) {
  // Hugging Face, "model size" of each repository's safetensors, in full.
  const std::map<std::string, uint64_t> published = {{"llama-3-8b", 8030261248},
                                                     {"qwen2.5-1.5b", 1543714304},
                                                     {"qwen2.5-14b", 14770033664},
                                                     {"qwen3-8b", 8190735360},
                                                     {"smollm2-135m", 134515008}};
  ASSERT_EQ(KnownShapeNames().size(), published.size());
  for (const std::string& name : KnownShapeNames()) {
    const auto config = KnownShape(name);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(ParameterCount(*config), published.at(name)) << name;
  }
}

TEST(KnownShapes, AreConfigsThatAModelCanHave) {
  for (const std::string& name : KnownShapeNames()) {
    const ModelConfig config = *KnownShape(name);
    EXPECT_EQ(config.query_heads % config.kv_heads, 0) << name;
    EXPECT_EQ(config.head_dim % 16, 0) << name;
    EXPECT_GT(config.max_positions, 0) << name;
    EXPECT_TRUE(config.eos_ids.empty()) << name;
  }
}

TEST(KnownShapes, AnUnknownNameIsAnsweredWithTheKnownOnes) {
  const absl::Status status = KnownShape("llama-70b").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.ToString(), testing::HasSubstr("llama-70b"));
  EXPECT_THAT(status.ToString(), testing::HasSubstr("qwen2.5-14b"));
}

}  // namespace
}  // namespace palimpsest
