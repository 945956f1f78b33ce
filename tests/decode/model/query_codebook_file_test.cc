// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/query_codebook_file.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/decode/model/fingerprint.h"
#include "services/decode/model/rope.h"
#include "services/decode/model/safetensors.h"

namespace palimpsest {
namespace {

using testing::HasSubstr;

constexpr char kFingerprint[] = "0123456789abcdef";

ModelConfig YarnModel() { return *LoadModelConfig("tests/decode/model/data/llama-yarn"); }

QueryCodebookFile Sample(const ModelConfig& config) {
  QueryCodebookFile file{.model_fingerprint = kFingerprint,
                         .prompts = 3,
                         .tokens = uint64_t{5} << 32,
                         .samples = 12'288,
                         .codebook = {.layers = config.layers,
                                      .query_heads = config.query_heads,
                                      .head_dim = config.head_dim,
                                      .queries = 32,
                                      .data = {},
                                      .inverse_frequencies = {}}};
  std::mt19937 random(1);
  const int values = config.layers * config.query_heads * 32 * config.head_dim;
  for (int i = 0; i < values; ++i) {
    file.codebook.data.push_back(static_cast<uint16_t>(random() & 0xbfff));  // finite
  }
  return file;
}

// The same with shares: 0.5 and 1.5 in turns.
QueryCodebookFile WithShares(const ModelConfig& config) {
  QueryCodebookFile file = Sample(config);
  for (int lane = 0; lane < config.cache_shape().lanes(); ++lane) {
    file.codebook.lane_shares.push_back(lane % 2 == 0 ? 0.5f : 1.5f);
  }
  return file;
}

void ExpectRefused(const std::string& bytes, const std::string& part,
                   absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  const absl::Status status = ParseQueryCodebook(bytes, YarnModel(), kFingerprint).status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(part));
}

// The file with `from` in its header replaced by `to`, of the same length.
std::string Edited(std::string bytes, const std::string& from, const std::string& to) {
  EXPECT_EQ(from.size(), to.size());
  const size_t at = bytes.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return bytes.replace(at, from.size(), to);
}

TEST(QueryCodebookFile, ComesBackAsItWasWithTheModelsRope) {
  const ModelConfig config = YarnModel();
  const QueryCodebookFile file = Sample(config);
  const auto back = ParseQueryCodebook(ToSafetensors(file), config, kFingerprint);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->model_fingerprint, kFingerprint);
  EXPECT_EQ(back->prompts, 3u);
  EXPECT_EQ(back->tokens, uint64_t{5} << 32);
  EXPECT_EQ(back->samples, 12'288u);
  EXPECT_EQ(back->codebook.layers, config.layers);
  EXPECT_EQ(back->codebook.query_heads, config.query_heads);
  EXPECT_EQ(back->codebook.head_dim, config.head_dim);
  EXPECT_EQ(back->codebook.queries, 32u);
  EXPECT_EQ(back->codebook.data, file.codebook.data);
  EXPECT_EQ(back->codebook.inverse_frequencies, InverseFrequencies(config.rope, config.head_dim));
  EXPECT_EQ(back->codebook.attention_factor, static_cast<float>(config.rope.attention_factor));
  EXPECT_NE(back->codebook.attention_factor, 1.0f) << "yarn has one, or this proves nothing";
}

TEST(QueryCodebookFile, AnySafetensorsReaderCanOpenIt) {
  const std::string bytes = ToSafetensors(Sample(YarnModel()));
  const auto tensors =
      ParseSafetensors({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ(tensors->at("queries").type, TensorType::kBfloat16);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  EXPECT_EQ(header_bytes % 8, 0u);
}

TEST(QueryCodebookFile, OfAnotherModelIsRefused) {
  const std::string bytes = ToSafetensors(Sample(YarnModel()));
  ExpectRefused(Edited(bytes, kFingerprint, "f123456789abcdef"), "made for another model",
                absl::StatusCode::kFailedPrecondition);
  ExpectRefused(Edited(bytes, "model_fingerprint", "model_fingerprimt"), "model_fingerprint");
}

TEST(QueryCodebookFile, OfAnotherVersionOrFormatIsRefused) {
  const std::string bytes = ToSafetensors(Sample(YarnModel()));
  ExpectRefused(Edited(bytes, R"("version":"1")", R"("version":"2")"), "version: 2 is not known");
  ExpectRefused(Edited(bytes, R"("version":"1")", R"("version":"x")"), "version: found 'x'");
  ExpectRefused(Edited(bytes, "palimpsest-query", "palimpsest-Query"), "format: found");
  ExpectRefused(Edited(bytes, "__metadata__", "__metadatA__"), "format: found nothing");
  ExpectRefused(Edited(bytes, R"("samples":"12288")", R"("samples":"-2288")"), "samples: found");
  ExpectRefused(Edited(bytes, R"("prompts":"3")", R"("prompts": 33)"), "prompts: found");
}

TEST(QueryCodebookFile, OfAnotherShapeOrTypeIsRefused) {
  const ModelConfig config = YarnModel();
  ModelConfig other = config;
  other.layers += 1;
  ExpectRefused(ToSafetensors(Sample(other)), "the model asks for");
  other = config;
  other.query_heads *= 2;
  ExpectRefused(ToSafetensors(Sample(other)), "the model asks for");
  QueryCodebookFile odd = Sample(config);
  odd.codebook.queries = 8;
  odd.codebook.data.resize(odd.codebook.data.size() / 4);
  ExpectRefused(ToSafetensors(odd), "8 queries a head, expected a multiple of 16");
  const std::string bytes = ToSafetensors(Sample(config));
  ExpectRefused(Edited(bytes, R"("BF16")", R"("F16" )"), "expected the type BF16");
  ExpectRefused(Edited(bytes, R"("queries")", R"("querieS")"), "queries: missing");
}

TEST(QueryCodebookFile, AValueThatIsNotFiniteIsRefused) {
  QueryCodebookFile file = Sample(YarnModel());
  file.codebook.data[7] = 0x7f80;
  ExpectRefused(ToSafetensors(file), "not finite");
}

TEST(QueryCodebookFile, SharesOfLanesComeBackAndLeaveTheQueriesAlone) {
  const ModelConfig config = YarnModel();
  const QueryCodebookFile file = WithShares(config);
  const std::string bytes = ToSafetensors(file);
  const auto back = ParseQueryCodebook(bytes, config, kFingerprint);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->codebook.lane_shares, file.codebook.lane_shares);
  EXPECT_EQ(back->codebook.data, file.codebook.data);
  EXPECT_EQ(ToSafetensors(*back), bytes);
  const auto tensors =
      ParseSafetensors({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ(tensors->at("lane_shares").type, TensorType::kFloat32);
  EXPECT_EQ(tensors->at("lane_shares").shape,
            (std::vector<int64_t>{config.layers, config.kv_heads}));
}

TEST(QueryCodebookFile, WithoutSharesLanesAreEven) {
  const auto back =
      ParseQueryCodebook(ToSafetensors(Sample(YarnModel())), YarnModel(), kFingerprint);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_THAT(back->codebook.lane_shares, testing::IsEmpty());
}

TEST(QueryCodebookFile, SharesThatCannotBeAreRefused) {
  const ModelConfig config = YarnModel();
  const auto with = [&](float first, float second) {
    QueryCodebookFile file = WithShares(config);
    file.codebook.lane_shares[0] = first;
    file.codebook.lane_shares[1] = second;
    return ToSafetensors(file);
  };
  EXPECT_TRUE(ParseQueryCodebook(with(0.51f, 1.5f), config, kFingerprint).ok());
  ExpectRefused(with(0.9f, 1.5f), "lane_shares: their mean is");
  ExpectRefused(with(0.05f, 1.95f), "lane_shares: that of lane 0 is 0.05, expected 0.0625 to 64");
  ExpectRefused(with(1.0f, 65.0f), "lane_shares: that of lane 1 is 65");
  ExpectRefused(with(NAN, 1.0f), "lane_shares: that of lane 0 is not finite");
  ExpectRefused(with(-1.0f, 3.0f), "lane_shares: that of lane 0 is -1");
  const std::string bytes = ToSafetensors(WithShares(config));
  ExpectRefused(Edited(bytes, R"("F32")", R"("F64")"), "");
  ExpectRefused(Edited(bytes, R"("F32")", R"("I32")"), "lane_shares: expected the type F32");
  ExpectRefused(Edited(bytes, R"("shape":[2,2])", R"("shape":[4,1])"),
                "lane_shares: shape [4, 1], the model asks for [2, 2]");
  ExpectRefused(Edited(bytes, R"("shape":[2,2])", R"("shape":[4]  )"), "lane_shares: shape [4]");
}

TEST(QueryCodebookFile, AFileCutOffOrDamagedAnywhereIsAStatus) {
  const ModelConfig config = YarnModel();
  const std::string bytes = ToSafetensors(WithShares(config));
  for (size_t size = 0; size < bytes.size(); size += size < 600 ? 1 : 97) {
    EXPECT_FALSE(ParseQueryCodebook(bytes.substr(0, size), config, kFingerprint).ok()) << size;
  }
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::string damaged = bytes;
    for (int i = 0; i < 1 + round % 4; ++i) damaged[random() % 500] = static_cast<char>(random());
    (void)ParseQueryCodebook(damaged, config, kFingerprint).ok();  // must not crash
  }
}

TEST(QueryCodebookFile, BesideAModelItLeavesTheModelsFingerprintAlone) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "codebook";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::copy(std::string("tests/decode/model/data/llama-yarn/") + name, folder / name);
  }
  const auto fingerprint = FingerprintModel(folder.string());
  ASSERT_TRUE(fingerprint.ok()) << fingerprint.status();
  QueryCodebookFile file = Sample(YarnModel());
  file.model_fingerprint = *fingerprint;
  const std::string path = (folder / kQueryCodebookFileName).string();
  ASSERT_EQ(SaveQueryCodebook(path, file), absl::OkStatus());
  EXPECT_EQ(*FingerprintModel(folder.string()), *fingerprint);
  const auto back = LoadQueryCodebook(path, YarnModel(), *fingerprint);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->codebook.data, file.codebook.data);
}

TEST(QueryCodebookFile, ErrorsNameThePath) {
  const auto missing = LoadQueryCodebook("/nonexistent/q.safetensors", YarnModel(), kFingerprint);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(missing.status().ToString(), HasSubstr("/nonexistent/q.safetensors"));
  const std::string path = testing::TempDir() + "/damaged.safetensors";
  std::ofstream(path) << "not a codebook";
  const auto damaged = LoadQueryCodebook(path, YarnModel(), kFingerprint);
  EXPECT_EQ(damaged.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(damaged.status().ToString(), HasSubstr(path));
  EXPECT_EQ(SaveQueryCodebook("/nonexistent/q.safetensors", Sample(YarnModel())).code(),
            absl::StatusCode::kUnavailable);
}

TEST(QueryCodebookFile, TheShippedOneIsOfTheShippedModel) {
  const std::string folder = "lab/reasoner/model";
  const auto config = LoadModelConfig(folder);
  ASSERT_TRUE(config.ok()) << config.status();
  const auto file =
      LoadQueryCodebook(folder + "/" + kQueryCodebookFileName, *config, *FingerprintModel(folder));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->codebook.queries, 256u);
  EXPECT_GE(file->samples, 12'000u);
  EXPECT_EQ(file->codebook.lane_shares.size(), static_cast<size_t>(config->cache_shape().lanes()));
}

}  // namespace
}  // namespace palimpsest
