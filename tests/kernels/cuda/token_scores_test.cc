// SPDX-License-Identifier: Apache-2.0
// Scores of tokens from tensor cores against fp64 over the same, de-quantised tokens.
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>

#include "kernels/cpu/hadamard.h"
#include "kernels/cuda/anneal.h"
#include "kernels/cuda/codebook.h"
#include "tests/kernels/cuda/random_sequence.h"
#include "tests/kernels/reference.h"

namespace palimpsest {
namespace {

constexpr Thought kR = Thought::kReasoning;
constexpr uint64_t kPoolBytes = uint64_t{24} << 20;
constexpr uint32_t kOpenGroup = 1;
// One of the channels that RoPE does not turn here.
constexpr int kStillChannel = 5;

struct ScoreCase {
  std::string name;
  CacheShape shape;
  int query_heads;
  PageFormat format;
  bool rotate_keys = false;
};

const ScoreCase kCases[] = {
    {"Reasoner", {.layers = 2, .kv_heads = 2, .head_dim = 64}, 4, {Format::kBf16, Format::kBf16}},
    {"EightB",
     {.layers = 1, .kv_heads = 2, .head_dim = 128},
     8,
     {Format::kNvfp4, Format::kTernary}},
    {"Rotated",
     {.layers = 1, .kv_heads = 3, .head_dim = 128},
     3,
     {Format::kNvfp4, Format::kNvfp4},
     true},
    {"RotatedSmall",
     {.layers = 2, .kv_heads = 1, .head_dim = 64},
     5,
     {Format::kFp8, Format::kFp8},
     true},
    {"Ternary", {.layers = 1, .kv_heads = 1, .head_dim = 64}, 8, {Format::kTernary, Format::kFp8}},
    {"Integers",
     {.layers = 1, .kv_heads = 2, .head_dim = 64},
     6,
     {Format::kInt4, Format::kInt4},
     true},
};

BackendConfig ConfigOf(const ScoreCase& of) {
  return {.shape = of.shape,
          .query_heads = of.query_heads,
          .pool_bytes = kPoolBytes,
          .open_groups = 2,
          .rows_max = 16,
          .rotate_keys = of.rotate_keys};
}

// A sequence on the GPU, of one class.
class Tokens {
 public:
  explicit Tokens(const ScoreCase& of)
      : config_(ConfigOf(of)),
        format_(of.format),
        layout_(MakePageLayout(of.shape, of.format)),
        backend_(*NewCudaBackend(config_, {})) {}

  // What the keys' still channel is, instead of random.
  void set_still(float x) { still_ = x; }
  // A share of the keys to come are nearly what the one before was.
  void set_alike(bool alike) { alike_ = alike; }

  void AddGroup() {
    const CacheShape& shape = config_.shape;
    SequenceView view = View();
    const StepRows rows{.count = kGroupTokens};
    ASSERT_EQ(backend_->BeginStep({&view, 1}, {&rows, 1}), absl::OkStatus());
    const size_t width = static_cast<size_t>(shape.kv_heads) * shape.head_dim;
    for (int layer = 0; layer < shape.layers; ++layer) {
      std::vector<float> k = numbers_.Next(kGroupTokens * width);
      for (size_t i = 0; i < k.size(); ++i) {
        if (alike_ && i >= width && i / width % 3 != 0) {
          k[i] = Bf16ToFloat(FloatToBf16(k[i - width] + 0.4f * k[i]));
        }
        if (still_ != 0 && i % shape.head_dim == kStillChannel) k[i] = still_;
      }
      const DeviceArray<uint16_t> keys(ToBf16(k)),
          values(ToBf16(numbers_.Next(kGroupTokens * width)));
      const DeviceArray<uint16_t> queries(size_t{kGroupTokens} * config_.query_heads *
                                          shape.head_dim);
      ASSERT_EQ(
          backend_->Append(layer, {.q = queries.data(), .k = keys.data(), .v = values.data()}),
          absl::OkStatus());
      ASSERT_EQ(backend_->Synchronize(), absl::OkStatus());
    }
    if (used_ + kGroupTokens > pages_.size() * kSlotsPerPage) {
      pages_.push_back(pages_.size() * layout_.page_bytes);
    }
    used_ += kGroupTokens;
    view = View();
    view.open_count = kGroupTokens;
    const SealOrder order{.thought = kR};
    ASSERT_EQ(backend_->Seal({&view, 1}, {&order, 1}), absl::OkStatus());
    ASSERT_EQ(backend_->Synchronize(), absl::OkStatus());
    next_ += kGroupTokens;
  }
  // Holes, elsewhere in every lane.
  void KeepAtRandom(uint32_t keep) {
    const SequenceView view = View();
    const AnnealOrder order{
        .thought = kR, .end_position = next_, .keep = keep, .selection = {Selector::kRandom}};
    ASSERT_EQ(backend_->Anneal({&view, 1}, {&order, 1}), absl::OkStatus());
    used_ = keep;
  }
  void SkipTo(uint32_t position) { next_ = position; }

  SequenceView View() const {
    SequenceView view;
    view.pages[Index(kR)] = pages_;
    view.formats = ClassFormats::Uniform(format_);
    view.open_group = kOpenGroup;
    view.open_position = next_;
    return view;
  }
  uint32_t next_position() const { return next_; }
  const std::vector<PageOffset>& pages() const { return pages_; }
  CudaBackend& backend() { return *backend_; }
  const BackendConfig& config() const { return config_; }
  const PageLayout& layout() const { return layout_; }
  PageFormat format() const { return format_; }

 private:
  const BackendConfig config_;
  const PageFormat format_;
  const PageLayout layout_;
  std::unique_ptr<CudaBackend> backend_;
  Bf16Numbers numbers_{31};
  std::vector<PageOffset> pages_;
  uint32_t used_ = 0;
  uint32_t next_ = 0;
  float still_ = 0;
  bool alike_ = false;
};

struct LaneToken {
  uint32_t slot = 0;  // in the class
  reference::Token token;
};

class TokenScoresTest : public ::testing::TestWithParam<ScoreCase> {
 protected:
  void SetUp() override {
    const absl::Status status = GpuStatus();
    if (!status.ok()) GTEST_SKIP() << status.message();
    tokens_ = std::make_unique<Tokens>(GetParam());
    params_.pool = tokens_->backend().pool();
    params_.layouts = cuda::DeviceLayoutsOf(layout_);
    scratch_.emplace(kScratchBytes);
    params_.scratch = scratch_->data();
    params_.scratch_bytes = kScratchBytes;
    params_.rotate_keys = GetParam().rotate_keys;
  }

  int dim() const { return GetParam().shape.head_dim; }
  int group() const { return GetParam().query_heads / GetParam().shape.kv_heads; }
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(dim())); }

  // In order of position, as far as they lie in [first, end).
  std::vector<LaneToken> LiveTokens(const std::vector<uint8_t>& pool, int lane, uint32_t first,
                                    uint32_t end) const {
    const PageLayout& page = tokens_->layout();
    std::vector<LaneToken> live;
    for (uint32_t i = 0; i < tokens_->pages().size() * kSlotsPerPage; ++i) {
      const uint8_t* at = pool.data() + tokens_->pages()[i / kSlotsPerPage];
      const uint32_t slot = i % kSlotsPerPage;
      const uint8_t* mask = at + page.masks_offset + 2 * lane + slot / 8;
      const auto* positions =
          reinterpret_cast<const uint32_t*>(at + page.positions_offset) + lane * kSlotsPerPage;
      if ((*mask >> slot % 8 & 1) == 0 || positions[slot] < first || positions[slot] >= end) {
        continue;
      }
      const uint8_t* data = at + lane * page.lane_bytes;
      live.push_back({i,
                      {.position = positions[slot],
                       .k = Decode(page.format.k, data, data + page.k_scales_offset, slot),
                       .v = Decode(page.format.v, data + page.v_data_offset,
                                   data + page.v_scales_offset, slot)}});
    }
    std::sort(live.begin(), live.end(), [](const LaneToken& a, const LaneToken& b) {
      return a.token.position < b.token.position;
    });
    return live;
  }
  reference::Vector Decode(Format format, const uint8_t* data, const uint8_t* scales,
                           uint32_t slot) const {
    std::vector<float> out(dim());
    DecodeSlot(format, data + slot * SlotDataBytes(format, dim()),
               scales + slot * SlotScaleBytes(format, dim()), dim(), out.data());
    return {out.begin(), out.end()};
  }

  // [lanes][slots]
  std::vector<float> Scores(const cuda::AnnealTask& task) {
    std::vector<cuda::PageEntry> entries;
    for (const PageOffset page : tokens_->pages()) {
      entries.push_back(page | cuda::FormatPair(tokens_->format()));
    }
    const DeviceArray<cuda::PageEntry> on_device(entries);
    params_.page_entries = on_device.data();
    const DeviceArray<float> scores(GetParam().shape.lanes() * entries.size() * kSlotsPerPage);
    cudaStream_t const stream = tokens_->backend().stream();
    EXPECT_EQ(cuda::LaunchScores(params_, task, scores.data(), stream), cudaSuccess);
    EXPECT_EQ(tokens_->backend().Synchronize(), absl::OkStatus());
    return scores.Read();
  }
  cuda::AnnealTask Task(Selector selector) const {
    return {.block_count = static_cast<uint32_t>(tokens_->pages().size()),
            .first_position = kPrompt,
            .end_position = tokens_->next_position(),
            .keep = 1,
            .next_position = tokens_->next_position(),
            .open_group = kOpenGroup,
            .selector = selector};
  }

  // Anticipated queries whose still channel is `still` beside its random part.
  void MakeCodebook(uint32_t queries, float still);
  void ExpectAnticipatedScores();
  void ExpectJointScores(uint32_t window, uint32_t recent);

  static constexpr uint32_t kPrompt = 21;
  static constexpr uint64_t kScratchBytes = 640 << 10;  // not for all lanes at once

  const PoolLayout layout_{ConfigOf(GetParam())};
  std::optional<DeviceArray<uint8_t>> scratch_;  // where there is a GPU
  std::unique_ptr<Tokens> tokens_;
  cuda::AnnealParams params_;
  QueryCodebook book_;
  cuda::Codebook codebook_;
};

void TokenScoresTest::MakeCodebook(uint32_t queries, float still) {
  const ScoreCase& of = GetParam();
  book_ = {};
  book_.layers = of.shape.layers;
  book_.query_heads = of.query_heads;
  book_.head_dim = dim();
  book_.queries = queries;
  book_.attention_factor = 1.25f;
  Bf16Numbers numbers(32);
  const size_t rows = size_t{queries} * of.shape.layers * of.query_heads;
  std::vector<float> values = numbers.Next(rows * dim());
  for (size_t i = 0; i < values.size(); ++i) {
    if (i % dim() == kStillChannel) values[i] += still;
  }
  book_.data = ToBf16(values);
  for (int c = 0; c < dim() / 2; ++c) {
    book_.inverse_frequencies.push_back(
        c == kStillChannel ? 0.0f : static_cast<float>(std::pow(10000.0, -2.0 * c / dim())));
  }
  const cuda::DeviceContext device{.layout = &layout_,
                                   .pool = params_.pool,
                                   .layouts = params_.layouts,
                                   .faults = {},
                                   .stream = tokens_->backend().stream()};
  auto made = cuda::Codebook::Make(device, book_);
  ASSERT_EQ(made.status(), absl::OkStatus());
  codebook_ = *std::move(made);
  params_.codebook = codebook_.on_device();
}

void TokenScoresTest::ExpectAnticipatedScores() {
  const std::vector<float> scores = Scores(Task(Selector::kAnticipated));
  const std::vector<uint8_t> pool = BackendPair::Bytes(
      tokens_->backend(), 0, tokens_->pages().size() * tokens_->layout().page_bytes);
  reference::Vector angles;
  for (const float frequency : book_.inverse_frequencies) {
    angles.push_back(static_cast<float>(tokens_->next_position()) * frequency);
  }
  double largest_error = 0;
  for (int lane = 0; lane < GetParam().shape.lanes(); ++lane) {
    std::vector<reference::Vector> queries;
    const size_t per_lane = size_t{book_.queries} * group();
    for (size_t i = lane * per_lane; i < (lane + 1) * per_lane; ++i) {
      const std::vector<float> q = FromBf16(absl::MakeSpan(book_.data).subspan(i * dim(), dim()));
      queries.push_back(reference::Rope({q.begin(), q.end()}, angles, book_.attention_factor));
      if (GetParam().rotate_keys) queries.back() = reference::Hadamard(queries.back());
    }
    std::vector<reference::Token> seen;
    const std::vector<LaneToken> live = LiveTokens(pool, lane, 0, ~uint32_t{0});
    for (const LaneToken& token : live) seen.push_back(token.token);
    const reference::Vector exact = reference::AnticipatedScores(queries, seen, scale());
    for (size_t i = 0; i < live.size(); ++i) {
      if (live[i].token.position < kPrompt) continue;
      const float score = scores[lane * tokens_->pages().size() * kSlotsPerPage + live[i].slot];
      largest_error = std::max(largest_error, std::fabs(score - exact[i]) / exact[i]);
      ASSERT_NEAR(score, exact[i], 0.03 * exact[i]) << "lane " << lane << " token " << i;
    }
  }
  RecordProperty("largest_error", std::to_string(largest_error));
  std::printf("largest relative error %.4f\n", largest_error);
}

void TokenScoresTest::ExpectJointScores(uint32_t window, uint32_t recent) {
  const ScoreCase& of = GetParam();
  Bf16Numbers numbers(33);
  const size_t group_queries = size_t(of.shape.layers) * of.query_heads * window;
  const std::vector<float> drawn = numbers.Next(2 * group_queries * dim(), 1.5f);
  const std::vector<float> queries(drawn.begin() + group_queries * dim(), drawn.end());
  DeviceArray<uint16_t> ring(ToBf16(drawn));  // of two open groups
  params_.queries = {.queries = reinterpret_cast<uint8_t*>(ring.data()), .window = window};
  cuda::AnnealTask task = Task(Selector::kJointScore);
  task.recent = recent;
  const std::vector<float> scores = Scores(task);
  const std::vector<uint8_t> pool = BackendPair::Bytes(
      tokens_->backend(), 0, tokens_->pages().size() * tokens_->layout().page_bytes);
  double largest_error = 0;
  for (int lane = 0; lane < of.shape.lanes(); ++lane) {
    std::vector<std::vector<reference::Vector>> newest(window);
    for (uint32_t w = 0; w < window; ++w) {
      for (int g = 0; g < group(); ++g) {
        const float* q = &queries[((size_t(lane) * group() + g) * window + w) * dim()];
        newest[w].emplace_back(q, q + dim());
      }
    }
    std::vector<reference::Token> seen;
    const std::vector<LaneToken> live = LiveTokens(pool, lane, kPrompt, tokens_->next_position());
    for (const LaneToken& token : live) seen.push_back(token.token);
    const reference::Vector exact = reference::JointScores(newest, seen, recent, scale());
    const double share = 1.0 / static_cast<double>(live.size());
    for (size_t i = 0; i < exact.size(); ++i) {
      const float score = scores[lane * tokens_->pages().size() * kSlotsPerPage + live[i].slot];
      largest_error =
          std::max(largest_error, std::fabs(score - exact[i]) / (std::fabs(exact[i]) + share));
      ASSERT_NEAR(score, exact[i], 1e-4 * (std::fabs(exact[i]) + share))
          << "lane " << lane << " token " << i << " of " << live.size();
    }
  }
  std::printf("largest relative error %.2e\n", largest_error);
}

TEST_P(TokenScoresTest, AnticipatedQueriesOverHolesAndAPromptThatStays) {
  MakeCodebook(48, 0.0f);
  for (int i = 0; i < 12; ++i) tokens_->AddGroup();
  tokens_->KeepAtRandom(70);
  for (int i = 0; i < 4; ++i) tokens_->AddGroup();
  ExpectAnticipatedScores();
}

TEST_P(TokenScoresTest, AnticipatedQueriesOverMoreTokensThanACtaHas) {
  MakeCodebook(80, 0.0f);
  for (int i = 0; i < 30; ++i) tokens_->AddGroup();
  tokens_->SkipTo(900000);
  tokens_->AddGroup();
  ExpectAnticipatedScores();
}

// In bf16: in any other format a channel that large would drown the others.
using TokenScoresBeyondRangeTest = TokenScoresTest;
TEST_P(TokenScoresBeyondRangeTest, AnticipatedQueriesWhoseLogitsLeaveTheRangeOfExponentials) {
  tokens_->set_still(64.0f);
  for (int i = 0; i < 9; ++i) tokens_->AddGroup();
  for (const float still : {24.0f, -24.0f}) {  // logits of about +-240
    MakeCodebook(48, still);
    ExpectAnticipatedScores();
  }
}

TEST_P(TokenScoresTest, JointScoresOfUnlikeAndAlikeKeys) {
  for (int i = 0; i < 20; ++i) tokens_->AddGroup();  // more tokens than a CTA has
  tokens_->KeepAtRandom(290);
  ExpectJointScores(8, 8);
  tokens_->set_alike(true);
  for (int i = 0; i < 20; ++i) tokens_->AddGroup();
  ExpectJointScores(8, 8);
}

TEST_P(TokenScoresTest, JointScoresOfAnyWindow) {
  tokens_->set_alike(true);
  for (int i = 0; i < 7; ++i) tokens_->AddGroup();
  for (const uint32_t window : {1u, 5u, 13u, 32u}) ExpectJointScores(window, window % 7);
}

TEST_P(TokenScoresTest, MoreSlotsThanTheScratchHasRoomForAreRefused) {
  const cuda::AnnealTask task{.block_count = 40000 / kSlotsPerPage,
                              .end_position = 10,
                              .keep = 1,
                              .selector = Selector::kAnticipated};
  MakeCodebook(16, 0.0f);
  EXPECT_EQ(cuda::LaunchAnneal(params_, &task, 1, nullptr), cudaErrorInvalidValue);
}

constexpr auto kNameOf = [](const auto& info) { return info.param.name; };
INSTANTIATE_TEST_SUITE_P(Cases, TokenScoresTest, ::testing::ValuesIn(kCases), kNameOf);
INSTANTIATE_TEST_SUITE_P(Cases, TokenScoresBeyondRangeTest, ::testing::Values(kCases[0]), kNameOf);

}  // namespace
}  // namespace palimpsest
