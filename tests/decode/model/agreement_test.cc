// SPDX-License-Identifier: Apache-2.0
// The model held against transformers on real weights: SmolLM2-135M, which is made on demand
// (lab/agreement/make_smollm2.sh), and the reasoner the repository ships.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "services/decode/model/cpu_model.h"
#include "services/decode/model/known_shapes.h"
#include "services/decode/model/tokenizer.h"
#include "tests/decode/model/chain.h"
#include "tests/decode/model/exact_backend.h"
#include "tests/decode/model/reference.h"

namespace palimpsest {
namespace {

constexpr char kReference[] = "lab/agreement/reference/smollm2-135m";

std::string SmolLm2Folder() {
  const char* given = std::getenv("PALIMPSEST_SMOLLM2");
  return given != nullptr ? given : "build/smollm2-135m";
}

bool HasModel(const std::string& folder) {
  return std::filesystem::exists(absl::StrCat(folder, "/model.safetensors"));
}

// Loads a folder and holds it against a recorded reference, tokenizer included.
void ExpectFolderAgrees(const std::string& folder, const Reference& reference, double tolerance) {
  auto model = NewCpuModel(folder, {.threads = 2, .rows_max = 16, .logit_rows_max = 16});
  ASSERT_TRUE(model.ok()) << model.status();
  if (!reference.prompt.empty()) {
    const auto tokenizer = LoadTokenizer(folder);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ(*(*tokenizer)->Encode(reference.prompt, false), reference.prompt_ids);
  }
  ExactBackend backend((*model)->config());
  Chains chains(model->get(), &backend, 2);
  const double worst = ExpectAgrees(reference, tolerance, &chains);
  std::cout << folder << ": worst logit error " << worst << " over " << reference.rows.size()
            << " positions, " << reference.greedy_ids.size() << " greedy tokens\n";
}

TEST(SmolLm2, HasTheLogitsAndTheNext64TokensOfTransformers) {
  if (!HasModel(SmolLm2Folder())) {
    GTEST_SKIP() << "no " << SmolLm2Folder() << "; lab/agreement/make_smollm2.sh makes it";
  }
  ExpectFolderAgrees(SmolLm2Folder(), ReadReference(absl::StrCat(kReference, ".json")), 2e-3);
}

TEST(SmolLm2, HasTheShapeThatItsNameIsKnownBy) {
  const auto folder = LoadModelConfig(SmolLm2Folder());
  if (!folder.ok()) {
    GTEST_SKIP() << "no " << SmolLm2Folder() << "; lab/agreement/make_smollm2.sh makes it";
  }
  const ModelConfig known = *KnownShape("smollm2-135m");
  EXPECT_EQ(known.cache_shape(), folder->cache_shape());
  EXPECT_EQ(ParameterCount(known), ParameterCount(*folder));
  EXPECT_EQ(known.rope.theta, folder->rope.theta);
  EXPECT_EQ(known.rms_eps, folder->rms_eps);
  EXPECT_EQ(known.max_positions, folder->max_positions);
}

TEST(SmolLm2, IsTokenizedAsByHuggingFace) {
  if (!HasModel(SmolLm2Folder())) {
    GTEST_SKIP() << "no " << SmolLm2Folder() << "; lab/agreement/make_smollm2.sh makes it";
  }
  const auto tokenizer = LoadTokenizer(SmolLm2Folder());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::ifstream file(absl::StrCat(kReference, ".encodings.json"));
  for (const auto& item : nlohmann::json::parse(file)) {
    const std::vector<int32_t> ids = item.at("ids");
    EXPECT_EQ(*(*tokenizer)->Encode(std::string(item.at("text")), false), ids) << item.at("text");
    EXPECT_EQ((*tokenizer)->Decode(ids, true), std::string(item.at("decoded_plain")));
  }
}

TEST(Reasoner, HasTheLogitsAndTheNextTokensOfTransformers) {
  const std::string folder = "lab/reasoner/model";
  const auto references = ReadReasonerReferences("lab/reasoner/reference/logits.json");
  ASSERT_FALSE(references.empty());
  // One chain of 3,000 tokens: attention in double over it takes ten seconds.
  ExpectFolderAgrees(folder, references.front(), 2e-3);
}

}  // namespace
}  // namespace palimpsest
