// SPDX-License-Identifier: Apache-2.0
// What BackendConfig::rotate_keys promises of every backend: other keys in the pages, queries
// rotated likewise by Append, the same attention.
#include <bit>
#include <cmath>
#include <vector>

#include "common/base/check.h"
#include "kernels/cpu/codec.h"
#include "kernels/cpu/hadamard.h"
#include "tests/kernels/conformance/backend_conformance.h"

namespace palimpsest {
namespace {

constexpr Thought kR = Thought::kReasoning;

double Norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

// Random activations of 16 rows.
struct Tokens {
  explicit Tokens(const ConformanceShape& shape) {
    Bf16Gaussian random(31);
    const auto draw = [&](int heads) {
      std::vector<float> x(size_t{16} * heads * shape.shape.head_dim);
      for (float& value : x) value = random.Next(1.0f);
      return x;
    };
    k = draw(shape.shape.kv_heads);
    v = draw(shape.shape.kv_heads);
    q = draw(shape.query_heads);
  }
  std::vector<float> k, v, q;
};

// One sequence on a backend of its own: what goes in, and what comes out.
class Rotation {
 public:
  Rotation(DeviceAdapter* adapter, const ConformanceShape& shape, PageFormat format, bool rotated)
      : adapter_(*adapter), shape_(shape), format_(format) {
    auto backend =
        adapter->NewBackend({.shape = shape.shape,
                             .query_heads = shape.query_heads,
                             .pool_bytes = MakePageLayout(shape.shape, format).page_bytes,
                             .open_groups = 1,
                             .rows_max = 16,
                             .rotate_keys = rotated});
    KV_CHECK(backend.ok());
    backend_ = *std::move(backend);
    view_ = {.formats = ClassFormats::Uniform(format), .open_group = 0};
  }

  // Appends 16 tokens to layer 0, seals them, appends another, and attends with its query.
  void Run(const Tokens& tokens) {
    Step(16, tokens);
    view_.pages[Index(kR)] = pages_;
    view_.open_count = 16;
    const SealOrder order{.sequence = 0, .thought = kR};
    ASSERT_EQ(backend_->Seal({&view_, 1}, {&order, 1}), absl::OkStatus());
    ASSERT_EQ(backend_->Synchronize(), absl::OkStatus());
    view_.open_count = 0;
    view_.open_position = 16;
    Step(1, tokens);
  }

  // What Append left of the queries, in the last step.
  const std::vector<float>& queries() const { return queries_; }
  const std::vector<float>& out() const { return out_; }
  float sparsity() const { return sparsity_; }

  // The key of `slot` in head 0 of layer 0, as stored.
  std::vector<double> StoredKey(size_t slot) {
    const PageLayout layout = MakePageLayout(shape_.shape, format_);
    std::vector<uint8_t> lane(layout.lane_bytes);
    KV_CHECK(backend_->Read(0, absl::MakeSpan(lane)).ok() && backend_->Synchronize().ok());
    const int dim = shape_.shape.head_dim;
    std::vector<float> x(dim);
    DecodeSlot(format_.k, lane.data() + slot * SlotDataBytes(format_.k, dim),
               lane.data() + layout.k_scales_offset + slot * SlotScaleBytes(format_.k, dim), dim,
               x.data());
    return {x.begin(), x.end()};
  }

 private:
  void Step(uint32_t count, const Tokens& tokens) {
    const StepRows rows{.count = count};
    ASSERT_EQ(backend_->BeginStep({&view_, 1}, {&rows, 1}), absl::OkStatus());
    void* buffers[] = {adapter_.Upload(tokens.k), adapter_.Upload(tokens.v),
                       adapter_.Upload(tokens.q),
                       adapter_.Upload(std::vector<float>(tokens.q.size()))};
    const NewTokens added{.q = buffers[2], .k = buffers[0], .v = buffers[1]};
    ASSERT_EQ(backend_->Append(0, added), absl::OkStatus());
    const LayerActivations io{.q = buffers[2], .out = buffers[3], .scale = 0.2f};
    const uint32_t first = 0;
    ASSERT_EQ(backend_->Attend(0, io), absl::OkStatus());
    ASSERT_EQ(backend_->MeasureSparsity(0, {&first, 1}, io, {&sparsity_, 1}), absl::OkStatus());
    ASSERT_EQ(backend_->Synchronize(), absl::OkStatus());
    queries_ = adapter_.Download(buffers[2], tokens.q.size());
    out_ = adapter_.Download(io.out, size_t{count} * shape_.query_heads * shape_.shape.head_dim);
    for (void* buffer : buffers) adapter_.Free(buffer);
  }

  DeviceAdapter& adapter_;
  const ConformanceShape shape_;
  const PageFormat format_;
  const std::vector<PageOffset> pages_ = {0};
  std::unique_ptr<Backend> backend_;
  SequenceView view_;
  std::vector<float> queries_, out_;
  float sparsity_ = -1.0f;
};

bool PowerOfTwo(const ConformanceShape& shape) {
  return std::has_single_bit(static_cast<uint32_t>(shape.shape.head_dim));
}

TEST_P(BackendConformance, RotatedKeysGiveTheAttentionAndSparsityOfPlainOnes) {
  const ConformanceShape& shape = std::get<1>(GetParam());
  if (!PowerOfTwo(shape)) return;  // refused: see below
  const Tokens tokens(shape);
  Rotation plain(adapter_.get(), shape, {}, false), rotated(adapter_.get(), shape, {}, true);
  plain.Run(tokens);
  rotated.Run(tokens);
  ASSERT_EQ(plain.out().size(), rotated.out().size());
  double largest = 0, error = 0;
  for (const float v : tokens.v) largest = std::max(largest, std::fabs(static_cast<double>(v)));
  for (size_t i = 0; i < plain.out().size(); ++i) {
    error = std::max(error, std::fabs(static_cast<double>(plain.out()[i]) - rotated.out()[i]));
  }
  // Keys and, where that is the element type, queries were rounded to bf16 after their rotation.
  EXPECT_LE(error, (adapter_->attention_tolerance() + 0.01) * largest);
  EXPECT_NEAR(plain.sparsity(), rotated.sparsity(), 1.0 / 17 + 1e-6);
}

TEST_P(BackendConformance, RotatedKeysAreStoredRotated) {
  const ConformanceShape& shape = std::get<1>(GetParam());
  if (!PowerOfTwo(shape)) return;
  const Tokens tokens(shape);
  constexpr struct {
    Format format;
    double error;
  } kCases[] = {{Format::kBf16, 1.0 / 256}, {Format::kNvfp4, 0.15}, {Format::kInt4, 0.15}};
  for (const auto& [format, allowed] : kCases) {
    SCOPED_TRACE(Name(format));
    Rotation rotated(adapter_.get(), shape, {format, format}, true);
    rotated.Run(tokens);
    for (size_t slot = 0; slot < 16; ++slot) {
      const auto key = tokens.k.begin() +
                       static_cast<int64_t>(slot * shape.shape.kv_heads * shape.shape.head_dim);
      const std::vector<double> appended(key, key + shape.shape.head_dim);
      std::vector<double> difference = rotated.StoredKey(slot);
      const std::vector<double> exact = reference::Hadamard(appended);
      for (size_t c = 0; c < exact.size(); ++c) difference[c] -= exact[c];
      EXPECT_LE(Norm(difference), allowed * Norm(exact)) << "slot " << slot;
    }
  }
}

// The element type's rounding is all that is allowed; rows that the step has not are not touched.
TEST_P(BackendConformance, QueriesAreRotatedInPlaceByAppendWhereKeysAre) {
  const ConformanceShape& shape = std::get<1>(GetParam());
  const Tokens tokens(shape);
  Rotation plain(adapter_.get(), shape, {}, false);
  plain.Run(tokens);
  EXPECT_EQ(plain.queries(), tokens.q);
  if (!PowerOfTwo(shape)) return;
  Rotation rotated(adapter_.get(), shape, {}, true);
  rotated.Run(tokens);
  std::vector<float> expected = tokens.q;
  const size_t width = static_cast<size_t>(shape.query_heads) * shape.shape.head_dim;
  HadamardHeads(absl::MakeSpan(expected).first(width), shape.shape.head_dim);
  if (backend().activation_type() == ActivationType::kBfloat16) {
    for (float& x : expected) x = Bf16ToFloat(FloatToBf16(x));
  }
  EXPECT_EQ(rotated.queries(), expected);
}

TEST_P(BackendConformance, AppendWantsQueriesThatAreRotatedOrKept) {
  const ConformanceShape& shape = std::get<1>(GetParam());
  const Tokens tokens(shape);
  const auto append = [&](bool rotated, bool keeps, bool with_q) {
    auto backend = adapter_->NewBackend({.shape = shape.shape,
                                         .query_heads = shape.query_heads,
                                         .pool_bytes = 4096,
                                         .open_groups = 1,
                                         .rows_max = 16,
                                         .rotate_keys = rotated,
                                         .query_window = 4});
    KV_CHECK(backend.ok());
    const SequenceView view{.open_group = 0, .keeps_queries = keeps};
    const StepRows rows{.count = 1};
    KV_CHECK((*backend)->BeginStep({&view, 1}, {&rows, 1}).ok());
    void* const q = adapter_->Upload(tokens.q);
    void* const k = adapter_->Upload(tokens.k);
    const absl::Status status = (*backend)->Append(0, {.q = with_q ? q : nullptr, .k = k, .v = k});
    KV_CHECK((*backend)->Synchronize().ok());
    for (void* buffer : {q, k}) adapter_->Free(buffer);
    return status.code();
  };
  EXPECT_EQ(append(false, false, false), absl::StatusCode::kOk);
  EXPECT_EQ(append(false, true, true), absl::StatusCode::kOk);
  EXPECT_EQ(append(false, true, false), absl::StatusCode::kInvalidArgument);
  if (!PowerOfTwo(shape)) return;
  EXPECT_EQ(append(true, false, true), absl::StatusCode::kOk);
  EXPECT_EQ(append(true, false, false), absl::StatusCode::kInvalidArgument);
}

TEST_P(BackendConformance, OnlyHeadsOfAPowerOfTwoCanBeRotated) {
  const ConformanceShape& shape = std::get<1>(GetParam());
  const absl::Status made = adapter_
                                ->NewBackend({.shape = shape.shape,
                                              .query_heads = shape.query_heads,
                                              .pool_bytes = 4096,
                                              .open_groups = 1,
                                              .rotate_keys = true})
                                .status();
  EXPECT_EQ(made.code(),
            PowerOfTwo(shape) ? absl::StatusCode::kOk : absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace palimpsest
