// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/tokenizer.h"

#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace palimpsest {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kData[] = "tests/decode/model/data/tokenizers/";

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

class AgreesWithHuggingFace : public testing::TestWithParam<const char*> {};

TEST_P(AgreesWithHuggingFace, InEncodingAndDecodingEveryRecordedText) {
  const auto tokenizer = ParseTokenizer(ReadText(absl::StrCat(kData, GetParam(), ".json")));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto recorded =
      nlohmann::json::parse(ReadText(absl::StrCat(kData, GetParam(), ".encodings.json")));
  ASSERT_GT(recorded.size(), 80u);
  for (const auto& item : recorded) {
    const std::string text = item.at("text");
    const std::vector<int32_t> ids = item.at("ids");
    EXPECT_EQ(*(*tokenizer)->Encode(text, false), ids) << item.at("text");
    EXPECT_EQ(*(*tokenizer)->Encode(text, true), std::vector<int32_t>(item.at("with_special")));
    EXPECT_EQ((*tokenizer)->Decode(ids, false), std::string(item.at("decoded")));
    EXPECT_EQ((*tokenizer)->Decode(ids, true), std::string(item.at("decoded_plain")));
    StreamDecoder stream(tokenizer->get());
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.Push(id);
    EXPECT_EQ(streamed + stream.Flush(), std::string(item.at("decoded_plain")));
  }
}

INSTANTIATE_TEST_SUITE_P(Families, AgreesWithHuggingFace,
                         testing::Values("gpt2", "llama3", "qwen2", "smollm2", "digits_removed",
                                         "word_level_split", "word_level"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Tokenizer, ReadsTheReasonersVocabulary) {
  const auto tokenizer = LoadTokenizer("lab/reasoner/model");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 128);
  const auto ids = (*tokenizer)->Encode("<bos> goal 80 [ 23 18 16 ]", true);
  ASSERT_TRUE(ids.ok());
  EXPECT_THAT(*ids, ElementsAre(101, 110, 80, 108, 23, 18, 16, 109));
  EXPECT_EQ((*tokenizer)->Decode(*ids, true), "goal 80 [ 23 18 16 ]");
  EXPECT_EQ((*tokenizer)->TokenId("<eos>"), 102);
  EXPECT_EQ((*tokenizer)->TokenId("nothing"), std::nullopt);
  EXPECT_TRUE((*tokenizer)->IsSpecial(102));
}

TEST(Tokenizer, TextThatIsNotUtf8IsRefused) {
  const auto tokenizer = ParseTokenizer(ReadText(absl::StrCat(kData, "gpt2.json")));
  for (const char* text : {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\xaf"}) {
    EXPECT_EQ((*tokenizer)->Encode(text, false).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(Tokenizer, IdsOutsideTheVocabularyDecodeToNothing) {
  const auto tokenizer = ParseTokenizer(ReadText(absl::StrCat(kData, "gpt2.json")));
  EXPECT_EQ((*tokenizer)->Decode({-1, 1 << 30, 100000}, false), "");
}

TEST(Tokenizer, AStreamHoldsACharacterBackUntilItIsWhole) {
  const auto tokenizer = ParseTokenizer(ReadText(absl::StrCat(kData, "smollm2.json")));
  const auto ids = (*tokenizer)->Encode("\xf0\x9f\xa6\x9c", false);  // an emoji of four tokens
  ASSERT_TRUE(ids.ok());
  ASSERT_GT(ids->size(), 1u);
  StreamDecoder stream(tokenizer->get());
  for (size_t i = 0; i + 1 < ids->size(); ++i) EXPECT_EQ(stream.Push((*ids)[i]), "");
  EXPECT_EQ(stream.Push(ids->back()), "\xf0\x9f\xa6\x9c");
  stream.Push(ids->front());
  EXPECT_EQ(stream.Flush(), "\xef\xbf\xbd");
}

TEST(Tokenizer, ALongWordIsEncodedInReasonableTime) {
  const auto tokenizer = ParseTokenizer(ReadText(absl::StrCat(kData, "llama3.json")));
  std::string word;
  for (uint32_t i = 0; i < 200000; ++i) word += static_cast<char>('a' + i * i % 26);
  EXPECT_EQ((*tokenizer)->Decode(*(*tokenizer)->Encode(word, false), false), word);
}

class Refusal : public testing::Test {
 protected:
  Refusal() : file_(nlohmann::json::parse(ReadText(absl::StrCat(kData, "llama3.json")))) {}
  void ExpectRefused(const std::string& part) const {
    const auto status = ParseTokenizer(file_.dump()).status();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(status.ToString(), HasSubstr(part));
  }
  nlohmann::json file_;
};

TEST_F(Refusal, NamesAnUnknownModelType) {
  file_["model"]["type"] = "Unigram";
  ExpectRefused("model type 'Unigram'");
}
TEST_F(Refusal, NamesByteFallback) {
  file_["model"]["byte_fallback"] = true;
  ExpectRefused("byte_fallback");
}
TEST_F(Refusal, NamesAnUnknownPreTokenizer) {
  file_["pre_tokenizer"]["pretokenizers"][1] = {{"type", "Metaspace"}};
  ExpectRefused("pre_tokenizer type 'Metaspace'");
}
TEST_F(Refusal, NamesAnUnknownNormalizerDecoderAndPostProcessor) {
  auto whole = file_;
  file_["normalizer"] = {{"type", "Lowercase"}};
  ExpectRefused("normalizer type 'Lowercase'");
  file_ = whole;
  file_["decoder"] = {{"type", "WordPiece"}};
  ExpectRefused("decoder type 'WordPiece'");
  file_ = whole;
  file_["post_processor"] = {{"type", "BertProcessing"}};
  ExpectRefused("post_processor type 'BertProcessing'");
}
TEST_F(Refusal, NamesABadPattern) {
  file_["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(";
  ExpectRefused("ICU cannot compile");
}
TEST_F(Refusal, NamesABadMerge) {
  file_["model"]["merges"].push_back("nope nope");
  ExpectRefused("model.merges");
}
TEST_F(Refusal, NamesABadId) {
  file_["model"]["vocab"]["a"] = 1u << 30;
  ExpectRefused("model.vocab");
  file_["model"]["vocab"]["a"] = file_["model"]["vocab"]["b"];
  ExpectRefused("each id once");
}
TEST_F(Refusal, OfATruncatedFileIsAStatusAtEveryLength) {
  const std::string text = file_.dump();
  for (size_t size = 0; size < text.size(); size += 97) {
    EXPECT_FALSE(ParseTokenizer(text.substr(0, size)).ok());
  }
}
TEST_F(Refusal, OfDeepNestingIsAStatus) {
  EXPECT_THAT(ParseTokenizer(std::string(100000, '[')).status().ToString(), HasSubstr("JSON"));
}

}  // namespace
}  // namespace palimpsest
