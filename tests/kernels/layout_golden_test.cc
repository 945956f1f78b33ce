// SPDX-License-Identifier: Apache-2.0
// The bytes of pages, fixed. Both backends and the wire share the layout, so a changed golden file
// is a changed protocol. PALIMPSEST_UPDATE_GOLDEN=1 writes the files anew, to be reviewed.
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"

namespace palimpsest {
namespace {

void ExpectGolden(const std::string& name, const std::string& text) {
  const std::string path = absl::StrCat("tests/kernels/golden/", name);
  if (std::getenv("PALIMPSEST_UPDATE_GOLDEN") != nullptr) {
    std::ofstream(path) << text;
    return;
  }
  std::ifstream file(path);
  ASSERT_TRUE(file.good()) << path << " is missing (tests run from the repository's root)";
  std::stringstream golden;
  golden << file.rdbuf();
  EXPECT_EQ(text, golden.str()) << path;
}

std::string Hex(const std::vector<uint8_t>& bytes, size_t offset, size_t count) {
  std::string text;
  for (size_t i = 0; i < count; ++i) absl::StrAppendFormat(&text, "%02x", bytes[offset + i]);
  return text;
}

// Two lanes of 16 channels: small enough to read, with every part of a page in it.
constexpr CacheShape kSmall = {.layers = 1, .kv_heads = 2, .head_dim = 16};
constexpr CacheShape kSmallWithScores = {
    .layers = 1, .kv_heads = 2, .head_dim = 16, .slot_scores = true};

// Numbers with no pattern, exact in bf16: multiples of 1/16 in [-4, 4].
float Value(uint32_t position, int head, int channel, int which) {
  const uint32_t mixed = position * 2654435761u + head * 40503u + channel * 9973u + which * 104729u;
  return static_cast<float>(static_cast<int>((mixed >> 7) % 129) - 64) / 16.0f;
}

// A page after 16 tokens, an anneal to the newest 13, and two tokens more in its first holes: slot
// 2 is dead and still holds old bytes. Scores, where there are any, are norms of V.
std::vector<uint8_t> MakePage(const CacheShape& shape, PageFormat format) {
  const PageLayout layout = MakePageLayout(shape, format);
  auto backend = *NewCpuBackend(
      {.shape = shape, .query_heads = 2, .pool_bytes = layout.page_bytes, .open_groups = 1}, 1);
  const std::vector<PageOffset> pages = {0};
  SequenceView view{.formats = ClassFormats::Uniform(format), .open_group = 0};
  if (shape.slot_scores) view.slot_score = SlotScore::kValueNorm;
  view.pages[Index(Thought::kReasoning)] = pages;
  const auto append_and_seal = [&](uint32_t count) {
    const size_t width = 2 * 16;
    std::vector<float> k(count * width), v(k.size());
    for (size_t i = 0; i < k.size(); ++i) {
      const auto position = view.open_position + static_cast<uint32_t>(i / width);
      k[i] = Value(position, i / 16 % 2, i % 16, 0);
      v[i] = Value(position, i / 16 % 2, i % 16, 1);
    }
    const StepRows rows{.count = count};
    EXPECT_EQ(backend->BeginStep({&view, 1}, {&rows, 1}), absl::OkStatus());
    EXPECT_EQ(backend->Append(0, {.k = k.data(), .v = v.data()}), absl::OkStatus());
    view.open_count = count;
    const SealOrder seal{.thought = Thought::kReasoning};
    EXPECT_EQ(backend->Seal({&view, 1}, {&seal, 1}), absl::OkStatus());
    view.open_count = 0;
    view.open_position += count;
  };
  append_and_seal(16);
  const AnnealOrder anneal{.thought = Thought::kReasoning,
                           .end_position = 16,
                           .keep = 13,
                           .selection = {Selector::kMostRecent}};
  EXPECT_EQ(backend->Anneal({&view, 1}, {&anneal, 1}), absl::OkStatus());
  append_and_seal(2);
  std::vector<uint8_t> bytes(layout.page_bytes);
  EXPECT_EQ(backend->Read(0, absl::MakeSpan(bytes)), absl::OkStatus());
  return bytes;
}

std::string DumpPage(const CacheShape& shape, PageFormat format) {
  const std::vector<uint8_t> bytes = MakePage(shape, format);
  const int dim = shape.head_dim;
  std::string text = absl::StrCat("# K ", Name(format.k), ", V ", Name(format.v),
                                  "; 1 layer, 2 KV heads, head_dim 16; ", bytes.size(),
                                  " bytes. A line is a slot; the byte offset stands first.\n");
  size_t at = 0;
  const auto dump = [&](const std::string& what, size_t lines, size_t bytes_a_line) {
    if (bytes_a_line == 0 || lines == 0) return;
    absl::StrAppend(&text, "\n", what, "\n");
    for (size_t i = 0; i < lines; ++i, at += bytes_a_line) {
      absl::StrAppendFormat(&text, "%5d  %s\n", at, Hex(bytes, at, bytes_a_line));
    }
  };
  for (int head = 0; head < shape.kv_heads; ++head) {
    dump(absl::StrCat("head ", head, " K data"), 16, SlotDataBytes(format.k, dim));
    dump(absl::StrCat("head ", head, " K scales"), 16, SlotScaleBytes(format.k, dim));
    dump(absl::StrCat("head ", head, " V data"), 16, SlotDataBytes(format.v, dim));
    dump(absl::StrCat("head ", head, " V scales"), 16, SlotScaleBytes(format.v, dim));
  }
  dump("positions, a line a head", 2, 16 * 4);
  if (shape.slot_scores) dump("scores, a line a head", 2, 16 * 4);
  dump("live masks, a line a head", 2, 2);
  dump("padding", 1, bytes.size() - at);
  return text;
}

TEST(PageGolden, BytesOfAPageAreFixedForEveryPairOfFormats) {
  for (const Format k : kFormats) {
    for (const Format v : kFormats) {
      ExpectGolden(absl::StrCat("page_", Name(k), "_", Name(v), ".txt"), DumpPage(kSmall, {k, v}));
    }
  }
}

TEST(PageGolden, ScoresLieBetweenPositionsAndMasks) {
  for (const Format v : kFormats) {
    const PageFormat format{Format::kNvfp4, v};
    ExpectGolden(absl::StrCat("page_scores_nvfp4_", Name(v), ".txt"),
                 DumpPage(kSmallWithScores, format));
    const PageLayout without = MakePageLayout(kSmall, format);
    EXPECT_EQ(without.scores_offset, without.masks_offset);
  }
}

// The comment in layout.h, transcribed: which channel each code of a word holds.
TEST(PageGolden, EvenChannelsLieInTheLowHalfOfAWordAndOddOnesInItsHighHalf) {
  const auto channels_of_the_second_word = [](Format format) {
    const int bits = BitsPerElement(format), count = 32 / bits;
    std::vector<int> channels(count, -1);
    for (int c = count; c < 2 * count; ++c) channels[ChannelBit(format, c) / bits - count] = c;
    return channels;
  };
  EXPECT_EQ(channels_of_the_second_word(Format::kBf16), (std::vector<int>{2, 3}));
  EXPECT_EQ(channels_of_the_second_word(Format::kFp8), (std::vector<int>{4, 6, 5, 7}));
  EXPECT_EQ(channels_of_the_second_word(Format::kTernary),
            (std::vector<int>{16, 18, 20, 22, 24, 26, 28, 30, 17, 19, 21, 23, 25, 27, 29, 31}));
  EXPECT_EQ(channels_of_the_second_word(Format::kInt4),
            (std::vector<int>{8, 10, 12, 14, 9, 11, 13, 15}));
}

TEST(PageGolden, Nvfp4HasSignsAboveMagnitudesInEachHalfOfAWord) {
  std::vector<int> magnitudes, signs;
  for (int c = 8; c < 16; ++c) {
    magnitudes.push_back(ChannelBit(Format::kNvfp4, c) - 32);
    signs.push_back(Nvfp4SignBit(c) - 32);
  }
  EXPECT_EQ(magnitudes, (std::vector<int>{6, 16 + 6, 3, 16 + 3, 0, 16, 9, 16 + 9}));
  EXPECT_EQ(signs, (std::vector<int>{15, 16 + 15, 12, 16 + 12, 14, 16 + 14, 13, 16 + 13}));
}

struct Model {
  const char* name;
  CacheShape shape;
  int query_heads;
};
constexpr Model kModels[] = {{"reasoner", {.layers = 8, .kv_heads = 2, .head_dim = 64}, 4},
                             {"SmolLM2-135M", {.layers = 30, .kv_heads = 3, .head_dim = 64}, 9},
                             {"Llama-3-8B", {.layers = 32, .kv_heads = 8, .head_dim = 128}, 32}};

TEST(PageGolden, OffsetsAndSizesAreFixedForThreeModels) {
  std::string text =
      "# Offsets in a lane and in a page, bytes. `share`: page bytes / 16 against bf16 K and V "
      "alone "
      "(FullTokenBytes).\n";
  for (const Model& model : kModels) {
    absl::StrAppendFormat(&text,
                          "\n%s: %d layers, %d KV heads, head_dim %d; a token in full %d; "
                          "an open group %d\n",
                          model.name, model.shape.layers, model.shape.kv_heads,
                          model.shape.head_dim, FullTokenBytes(model.shape),
                          OpenGroupBytes(model.shape));
    absl::StrAppendFormat(&text, "%-16s%9s%9s%9s%9s%11s%9s%11s%13s%8s\n", "K/V", "k_scales",
                          "v_data", "v_scales", "lane", "positions", "masks", "page", "bytes/token",
                          "share");
    for (const Format k : kFormats) {
      for (const Format v : kFormats) {
        const PageLayout l = MakePageLayout(model.shape, {k, v});
        absl::StrAppendFormat(
            &text, "%-16s%9d%9d%9d%9d%11d%9d%11d%13.3f%8.4f\n", absl::StrCat(Name(k), "/", Name(v)),
            l.k_scales_offset, l.v_data_offset, l.v_scales_offset, l.lane_bytes, l.positions_offset,
            l.masks_offset, l.page_bytes, l.page_bytes / 16.0,
            l.page_bytes / 16.0 / static_cast<double>(FullTokenBytes(model.shape)));
        EXPECT_EQ(l.page_bytes % kPageAlignment, 0u);
        EXPECT_EQ(l.positions_offset % alignof(uint32_t), 0u);
      }
    }
  }
  ExpectGolden("layout_offsets.txt", text);
}

TEST(PageGolden, OffsetsAndSizesWithScoresAreFixedForThreeModels) {
  std::string text =
      "# Pages whose slots carry scores, bytes; K and V alike. `more`: page bytes against a page\n"
      "# without scores. What lies before the scores lies where it does without them.\n";
  for (const Model& model : kModels) {
    CacheShape shape = model.shape;
    shape.slot_scores = true;
    absl::StrAppendFormat(&text,
                          "\n%s: an open group %d, scores of layer 1 and KV head 1 at %d; the "
                          "newest 8 queries %d\n%-16s%9s%9s%9s%13s%9s\n",
                          model.name, OpenGroupBytes(shape), OpenGroupScoresOffset(shape, 1, 1),
                          QueryWindowBytes(shape, model.query_heads, 8), "K/V", "scores", "masks",
                          "page", "bytes/token", "more");
    for (const Format format : kFormats) {
      const PageLayout with = MakePageLayout(shape, {format, format});
      const PageLayout without = MakePageLayout(model.shape, {format, format});
      absl::StrAppendFormat(
          &text, "%-16s%9d%9d%9d%13.3f%9.4f\n", Name(format), with.scores_offset, with.masks_offset,
          with.page_bytes, with.page_bytes / 16.0,
          static_cast<double>(with.page_bytes) / static_cast<double>(without.page_bytes));
      EXPECT_EQ(with.page_bytes % kPageAlignment, 0u);
      EXPECT_EQ(with.scores_offset % alignof(float), 0u);
      EXPECT_EQ(with.positions_offset, without.positions_offset);
    }
  }
  ExpectGolden("layout_offsets_scores.txt", text);
}

TEST(PageGolden, OffsetsAndSizesOfResiduesAreFixedForThreeModels) {
  std::string text =
      "# Open groups with residues, bytes: in all, a lane's residue, that of layer 1 and KV head "
      "1;\n"
      "# the same two where there are scores too. Pages are not touched.\n";
  for (const Model& model : kModels) {
    CacheShape shape = model.shape;
    shape.residue = true;
    EXPECT_EQ(MakePageLayout(shape, {}).page_bytes, MakePageLayout(model.shape, {}).page_bytes);
    absl::StrAppendFormat(&text, "%-16s%10d%8d%10d", model.name, OpenGroupBytes(shape),
                          ResidueLaneBytes(shape), OpenGroupResidueOffset(shape, 1, 1));
    for (const bool scores : {false, true}) {
      shape.slot_scores = scores;
      CacheShape without = shape;
      without.residue = false;
      EXPECT_EQ(OpenGroupResidueOffset(shape, 0, 0), OpenGroupBytes(without));
      EXPECT_EQ(OpenGroupResidueOffset(shape, shape.layers, 0), OpenGroupBytes(shape));
      EXPECT_EQ(OpenGroupResidueOffset(shape, 1, 1) % 16, 0u);
    }
    absl::StrAppendFormat(&text, "%10d%10d\n", OpenGroupBytes(shape),
                          OpenGroupResidueOffset(shape, 1, 1));
  }
  ExpectGolden("layout_offsets_residue.txt", text);
}

}  // namespace
}  // namespace palimpsest
