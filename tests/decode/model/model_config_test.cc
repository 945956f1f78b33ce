// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/model_config.h"

#include <cmath>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace palimpsest {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

json Llama() {
  return {{"model_type", "llama"},    {"hidden_size", 256},
          {"num_hidden_layers", 8},   {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"intermediate_size", 768},
          {"vocab_size", 128},        {"max_position_embeddings", 16384},
          {"rms_norm_eps", 1e-5},     {"eos_token_id", 102}};
}

ModelConfig Parsed(const json& config) {
  auto parsed = ParseModelConfig(config.dump());
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? *parsed : ModelConfig();
}

void ExpectRefused(const json& config, const std::string& key) {
  const absl::Status status = ParseModelConfig(config.dump()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key;
  EXPECT_THAT(status.ToString(), HasSubstr(key));
}

json With(json config, const std::string& key, const json& value) {
  config[key] = value;
  return config;
}

TEST(ModelConfig, DerivesWhatALlamaFileLeavesOut) {
  json file = Llama();
  file.erase("num_key_value_heads");
  const ModelConfig config = Parsed(file);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.kv_heads, 4);
  EXPECT_FALSE(config.qkv_bias);
  EXPECT_FALSE(config.tied_embeddings);
  EXPECT_EQ(config.rope.theta, 10000.0);
  EXPECT_THAT(config.eos_ids, ElementsAre(102));
  EXPECT_EQ(config.bos_id, std::nullopt);
}

TEST(ModelConfig, KnowsWhatEachFamilyFixes) {
  EXPECT_TRUE(Parsed(With(Llama(), "model_type", "qwen2")).qkv_bias);
  EXPECT_FALSE(Parsed(With(Llama(), "model_type", "qwen2")).output_bias);
  const ModelConfig qwen3 = Parsed(With(Llama(), "model_type", "qwen3"));
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_EQ(qwen3.head_dim, 128);  // whatever hidden / heads says
}

TEST(ModelConfig, ReadsBothSpellingsOfRope) {
  const json yarn = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 4096}};
  const ModelConfig older = Parsed(With(With(Llama(), "rope_scaling", yarn), "rope_theta", 5e5));
  json parameters = yarn;
  parameters.erase("type");
  parameters["rope_type"] = "yarn";
  parameters["rope_theta"] = 5e5;
  const ModelConfig newer = Parsed(With(Llama(), "rope_parameters", parameters));
  for (const ModelConfig& config : {older, newer}) {
    EXPECT_EQ(config.rope.scaling, RopeScaling::kYarn);
    EXPECT_EQ(config.rope.theta, 5e5);
    EXPECT_EQ(config.rope.factor, 4.0);
    EXPECT_NEAR(config.rope.attention_factor, 0.1 * std::log(4.0) + 1.0, 1e-12);
  }
}

TEST(ModelConfig, ReadsAListOfEndTokens) {
  EXPECT_THAT(Parsed(With(Llama(), "eos_token_id", {1, 2, 3})).eos_ids, ElementsAre(1, 2, 3));
  EXPECT_TRUE(Parsed(With(Llama(), "eos_token_id", nullptr)).eos_ids.empty());
}

TEST(ModelConfig, ReadsTheReasonersFolder) {
  const auto config = LoadModelConfig("lab/reasoner/model");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->cache_shape(), (CacheShape{.layers = 8, .kv_heads = 2, .head_dim = 64}));
  EXPECT_THAT(config->eos_ids, ElementsAre(102));
}

TEST(ModelConfig, RefusesWhatItDoesNotComputeByName) {
  ExpectRefused(With(Llama(), "model_type", "mistral"), "model_type: found \"mistral\"");
  ExpectRefused(With(Llama(), "hidden_act", "gelu"), "hidden_act");
  ExpectRefused(With(Llama(), "use_sliding_window", true), "use_sliding_window");
  ExpectRefused(With(Llama(), "layer_types", {"sliding_attention"}), "layer_types");
  ExpectRefused(With(Llama(), "quantization_config", {{"bits", 4}}), "quantization_config");
  ExpectRefused(With(Llama(), "partial_rotary_factor", 0.5), "partial_rotary_factor");
  ExpectRefused(With(Llama(), "rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}),
                "rope_type: found \"dynamic\", allowed: default, linear, llama3, yarn");
}

TEST(ModelConfig, RefusesNumbersOutOfRangeAndOfTheWrongKind) {
  for (const char* key :
       {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "intermediate_size", "vocab_size", "max_position_embeddings", "head_dim", "eos_token_id",
        "bos_token_id", "rms_norm_eps", "rope_theta"}) {
    ExpectRefused(With(Llama(), key, -1), key);
    ExpectRefused(With(Llama(), key, uint64_t{1} << 63), key);
    ExpectRefused(With(Llama(), key, "many"), key);
    ExpectRefused(With(Llama(), key, json::array({json::object()})), key);
  }
  ExpectRefused(With(Llama(), "num_key_value_heads", 3), "num_key_value_heads");
  ExpectRefused(With(Llama(), "head_dim", 20), "head_dim");
  ExpectRefused(With(Llama(), "tie_word_embeddings", 1), "tie_word_embeddings");
}

TEST(ModelConfig, RefusesWhatIsNoObject) {
  for (const char* text : {"", "{", "[]", "3", "null", "{\"model_type\":"}) {
    EXPECT_FALSE(ParseModelConfig(text).ok()) << text;
  }
  json missing = Llama();
  missing.erase("vocab_size");
  ExpectRefused(missing, "vocab_size: missing");
}

}  // namespace
}  // namespace palimpsest
