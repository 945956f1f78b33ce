// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/safetensors.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace palimpsest {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

using Bytes = std::vector<uint8_t>;

Bytes Image(const std::string& header, size_t data_bytes) {
  Bytes image(8 + header.size() + data_bytes);
  const uint64_t size = header.size();
  std::memcpy(image.data(), &size, 8);
  std::memcpy(image.data() + 8, header.data(), header.size());
  return image;
}

void ExpectRefused(const std::string& header, size_t data_bytes, const std::string& part) {
  const auto status = ParseSafetensors(Image(header, data_bytes)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << header;
  EXPECT_THAT(status.ToString(), HasSubstr(part));
}

Bytes TinyFile() {
  std::ifstream file("tests/decode/model/data/qwen2/model.safetensors", std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

TEST(Safetensors, ReadsTheThreeFloatTypes) {
  Bytes image = Image(
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]},)"
      R"("c":{"dtype":"F16","shape":[5],"data_offsets":[12,22]},)"
      R"("d":{"dtype":"I64","shape":[0],"data_offsets":[22,22]},"__metadata__":{"format":"pt"}})",
      0);
  const float a[] = {1.5f, -2.0f};
  const uint16_t rest[] = {0x3f80, 0xc000,  // bf16 1, -2
                           0x3c00, 0x8001, 0x7bff, 0xfc00, 0x7e00};
  image.insert(image.end(), reinterpret_cast<const uint8_t*>(a),
               reinterpret_cast<const uint8_t*>(a) + 8);
  image.insert(image.end(), reinterpret_cast<const uint8_t*>(rest),
               reinterpret_cast<const uint8_t*>(rest) + 14);
  const auto tensors = ParseSafetensors(image);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  const auto floats = [&](const char* name) {
    std::vector<float> out(tensors->at(name).elements());
    CopyAsFloat(tensors->at(name), absl::MakeSpan(out));
    return out;
  };
  EXPECT_THAT(floats("a"), ElementsAre(1.5f, -2.0f));
  EXPECT_THAT(floats("b"), ElementsAre(1.0f, -2.0f));
  EXPECT_THAT(floats("c"), ElementsAre(1.0f, -0x1p-24f, 65504.0f, -INFINITY, testing::IsNan()));
  EXPECT_EQ(tensors->at("d").elements(), 0);
}

TEST(Safetensors, RefusesHeadersThatLie) {
  ExpectRefused("[]", 0, "an object");
  ExpectRefused("{", 0, "not JSON");
  ExpectRefused(R"({"a":3})", 0, "'a': dtype");
  ExpectRefused(R"({"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}})", 4, "dtype");
  ExpectRefused(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "shape");
  ExpectRefused(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, "shape");
  ExpectRefused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", 4, "data_offsets");
  ExpectRefused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "data_offsets");
  ExpectRefused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "do not match");
  ExpectRefused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8, "cover 4 of 8");
  // 2^32 * 2^32 * 4 wraps to 0 in 64 bits.
  ExpectRefused(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
                "match");
}

TEST(Safetensors, ReadsMetadataOfText) {
  const auto metadata = ParseSafetensorsMetadata(Image(R"({"__metadata__":{"a":"1","b":""}})", 0));
  ASSERT_TRUE(metadata.ok()) << metadata.status();
  EXPECT_THAT(*metadata, ElementsAre(testing::Pair("a", "1"), testing::Pair("b", "")));
  EXPECT_TRUE(ParseSafetensorsMetadata(Image("{}", 0))->empty());
  EXPECT_FALSE(ParseSafetensorsMetadata(Image(R"({"__metadata__":{"a":1}})", 0)).ok());
  EXPECT_FALSE(ParseSafetensorsMetadata(Image(R"({"__metadata__":[]})", 0)).ok());
}

TEST(Safetensors, WeightsAreTheModelsFilesAlone) {
  EXPECT_THAT(*WeightFiles("tests/decode/model/data/qwen2"), ElementsAre("model.safetensors"));
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "shards";
  std::filesystem::remove_all(folder);  // of a run before
  std::filesystem::create_directories(folder);
  EXPECT_EQ(WeightFiles(folder.string()).status().code(), absl::StatusCode::kNotFound);
  std::ofstream(folder / "model.safetensors.index.json")
      << R"({"weight_map":{"x":"b.safetensors","y":"a.safetensors","z":"b.safetensors"}})";
  std::ofstream(folder / "queries.safetensors") << "something else";
  EXPECT_THAT(*WeightFiles(folder.string()), ElementsAre("a.safetensors", "b.safetensors"));
}

TEST(Safetensors, RefusesOverlapsAndHoles) {
  const std::string a = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)";
  ExpectRefused(a + R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12, "overlaps");
  ExpectRefused(a + R"("b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8, "overlaps");
  ExpectRefused(a + R"("b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})", 16, "hole");
}

TEST(Safetensors, RefusesALengthBeyondTheFile) {
  Bytes image = Image("{}", 0);
  EXPECT_TRUE(ParseSafetensors(image).ok());
  image[0] = 3;
  EXPECT_FALSE(ParseSafetensors(image).ok());
  std::fill_n(image.begin(), 8, 0xff);
  EXPECT_FALSE(ParseSafetensors(image).ok());
}

TEST(Safetensors, AFileCutOffAnywhereIsAStatus) {
  const Bytes file = TinyFile();
  ASSERT_TRUE(ParseSafetensors(file).ok());
  for (size_t size = 0; size < file.size(); size += size < 4096 ? 7 : 997) {
    const Bytes cut(file.begin(), file.begin() + size);  // its own allocation, so ASan sees its end
    EXPECT_FALSE(ParseSafetensors(cut).ok()) << size;
  }
}

TEST(Safetensors, AHeaderWithDamagedBytesNeverCrashes) {
  const Bytes file = TinyFile();
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    Bytes damaged = file;
    for (int i = 0; i < 1 + round % 4; ++i)
      damaged[random() % 3000] = static_cast<uint8_t>(random());
    const auto tensors = ParseSafetensors(damaged);
    if (!tensors.ok()) continue;
    for (const auto& [name, view] : *tensors) {
      if (view.type == TensorType::kOther) continue;
      std::vector<float> out(view.elements());
      CopyAsFloat(view, absl::MakeSpan(out));
    }
  }
}

class WeightFolder : public testing::Test {
 protected:
  WeightFolder() : folder_(testing::TempDir() + "/weights") {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void Write(const std::string& name, const Bytes& bytes) const {
    std::ofstream(folder_ + "/" + name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  void WriteIndex(const std::string& text) const {
    Write("model.safetensors.index.json", Bytes(text.begin(), text.end()));
  }
  const std::string folder_;
};

const char kOne[] = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
const char kTwo[] = R"({"b":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}})";

TEST_F(WeightFolder, ShardsAreReadThroughTheirIndex) {
  Write("one.safetensors", Image(kOne, 4));
  Write("two.safetensors", Image(kTwo, 4));
  WriteIndex(R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const auto store = WeightStore::Open(folder_);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE((*store)->ReadFloats("a", {1}).ok());
  EXPECT_EQ((*store)->ReadFloats("b", {1}).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ((*store)->ReadFloats("c", {1}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT((*store)->ReadFloats("a", {2, 2}).status().ToString(),
              HasSubstr("shape [1], the config asks for [2, 2]"));
}

TEST_F(WeightFolder, AnIndexCannotNameAFileElsewhereNorOneThatLacksItsTensor) {
  Write("one.safetensors", Image(kOne, 4));
  for (const char* index :
       {R"({"weight_map":{"a":"../one.safetensors"}})", R"({"weight_map":{"a":"/etc/passwd"}})",
        R"({"weight_map":{"a":7}})", R"({"weight_map":{"z":"one.safetensors"}})",
        R"({"weight_map":{"a":"none.safetensors"}})", R"({})", "["}) {
    WriteIndex(index);
    EXPECT_FALSE(WeightStore::Open(folder_).ok()) << index;
  }
}

TEST_F(WeightFolder, AnEmptyFolderIsNotFoundAndAnEmptyFileIsRefused) {
  EXPECT_EQ(WeightStore::Open(folder_).status().code(), absl::StatusCode::kNotFound);
  Write("model.safetensors", {});
  EXPECT_EQ(WeightStore::Open(folder_).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace palimpsest
