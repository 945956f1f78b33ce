// SPDX-License-Identifier: Apache-2.0
// Norm, rotations and placement of new tokens against a literal version, which queries are kept;
// and what is refused.
#include <cmath>
#include <optional>
#include <random>
#include <string>

#include "kernels/cpu/hadamard.h"
#include "tests/kernels/cuda/backend_pair.h"

namespace palimpsest {
namespace {

struct AppendCase {
  CacheShape shape;
  int query_heads;
  bool norm;
  bool rotate_keys;
};

// What one launch reads and writes.
struct Projection {
  Projection(const AppendCase& of, uint32_t rows, uint32_t positions, uint64_t seed)
      : heads(of.query_heads + 2 * of.shape.kv_heads), dim(of.shape.head_dim) {
    std::mt19937_64 engine(seed);
    std::normal_distribution<float> normal;
    const auto draw = [&](size_t count, float mean) {
      std::vector<float> x(count);
      for (float& value : x) value = Bf16ToFloat(FloatToBf16(mean + normal(engine)));
      return x;
    };
    qkv = draw(size_t{rows} * heads * dim, 0.0f);
    q_norm = draw(dim, 1.0f);
    k_norm = draw(dim, 1.0f);
    for (uint32_t p = 0; p < positions; ++p) {
      for (int i = 0; i < dim / 2; ++i) {
        const double angle = p * std::pow(10000.0, -2.0 * i / dim);
        cos_sin.push_back(static_cast<float>(std::cos(angle)));
        cos_sin.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }
  int heads, dim;
  std::vector<float> qkv, q_norm, k_norm, cos_sin;
};

float Rounded(double x) { return Bf16ToFloat(FloatToBf16(static_cast<float>(x))); }

// One head as transformers computes it in bf16, but for RoPE's sums, which are fp32; then, for a
// cache of rotated keys, Hadamard's, without rounding between the two.
std::vector<float> Exact(const Projection& p, uint32_t row, int head,
                         const std::vector<float>* norm, uint32_t position, bool hadamard) {
  const float* from = p.qkv.data() + (size_t{row} * p.heads + head) * p.dim;
  std::vector<float> x(from, from + p.dim);
  if (norm != nullptr) {
    double sum = 0;
    for (const float value : x) sum += double{value} * value;
    const double inverse = 1 / std::sqrt(sum / p.dim + 1e-6);
    for (int c = 0; c < p.dim; ++c) x[c] = Rounded(Rounded(x[c] * inverse) * double{(*norm)[c]});
  }
  std::vector<float> out(p.dim);
  for (int c = 0; c < p.dim / 2; ++c) {
    const double cos = p.cos_sin[(size_t{position} * p.dim / 2 + c) * 2];
    const double sin = p.cos_sin[(size_t{position} * p.dim / 2 + c) * 2 + 1];
    out[c] = static_cast<float>(x[c] * cos - x[c + p.dim / 2] * sin);
    out[c + p.dim / 2] = static_cast<float>(x[c + p.dim / 2] * cos + x[c] * sin);
  }
  if (hadamard) Hadamard(absl::MakeSpan(out));
  for (float& value : out) value = Rounded(value);
  return out;
}

// Both were rounded to bf16; an intermediate may have fallen to the other side of a tie.
void ExpectClose(const std::vector<float>& exact, const uint16_t* bits, const std::string& what) {
  for (size_t c = 0; c < exact.size(); ++c) {
    ASSERT_NEAR(Bf16ToFloat(bits[c]), exact[c], std::fabs(exact[c]) / 64 + 1e-2)
        << what << " channel " << c;
  }
}

class AppendProjectedTest : public ::testing::TestWithParam<AppendCase> {
 protected:
  static constexpr uint32_t kPadded = 24, kPositions = 300, kOpenGroups = 4, kWindow = 5;

  void SetUp() override {
    const absl::Status status = GpuStatus();
    if (!status.ok()) GTEST_SKIP() << status.message();
  }

  // Makes a backend and appends the step's rows to its last layer.
  void Append() {
    auto backend = NewCudaBackend({.shape = of_.shape,
                                   .query_heads = of_.query_heads,
                                   .pool_bytes = uint64_t{1} << 20,
                                   .open_groups = kOpenGroups,
                                   .rows_max = 32,
                                   .rotate_keys = of_.rotate_keys,
                                   .query_window = kWindow},
                                  {});
    ASSERT_EQ(backend.status(), absl::OkStatus());
    backend_ = *std::move(backend);
    ASSERT_EQ(backend_->BeginStep(views_, rows_), absl::OkStatus());
    const DeviceArray<uint16_t> qkv(ToBf16(p_.qkv)), q_norm(ToBf16(p_.q_norm)),
        k_norm(ToBf16(p_.k_norm));
    const DeviceArray<float> cos_sin(p_.cos_sin);
    q_.emplace(std::vector<uint16_t>(kPadded * of_.query_heads * p_.dim, 0x4242));
    ASSERT_EQ(backend_->AppendProjected(layer_,
                                        {.qkv = qkv.data(),
                                         .q = q_->data(),
                                         .q_norm = of_.norm ? q_norm.data() : nullptr,
                                         .k_norm = of_.norm ? k_norm.data() : nullptr,
                                         .rms_eps = 1e-6f,
                                         .rope_cos_sin = cos_sin.data(),
                                         .positions = kPositions},
                                        kPadded),
              absl::OkStatus());
    ASSERT_EQ(backend_->Synchronize(), absl::OkStatus());
  }

  // Calls `each` with every row of the step: the sequence, its slot and position, and the row.
  template <typename Each>
  void ForEachRow(const Each& each) const {
    for (const StepRows& r : rows_) {
      const SequenceView& view = views_[r.sequence];
      for (uint32_t i = 0; i < r.count; ++i) {
        const uint32_t slot = view.open_count + i;
        each(r, view, slot, view.open_position + slot, r.row + i);
        if (HasFatalFailure()) return;
      }
    }
  }

  std::vector<uint16_t> KeptQueries() const {
    const size_t each = QueryWindowBytes(of_.shape, of_.query_heads, kWindow) / 2;
    return DeviceArray<uint16_t>::ReadDevice(backend_->queries().queries, kOpenGroups * each);
  }
  // Where KeptQueries has head `head` of the query at `position`, of the layer appended to.
  size_t KeptAt(uint32_t open_group, int head, uint32_t position) const {
    const size_t of_layer = size_t{open_group} * of_.shape.layers + layer_;
    return ((of_layer * of_.query_heads + head) * kWindow + position % kWindow) * p_.dim;
  }

  const AppendCase of_ = GetParam();
  const int layer_ = of_.shape.layers - 1;
  const Projection p_{of_, kPadded, kPositions, 21};
  // Rows lie out of order, with a gap; the last rows are padding.
  const SequenceView views_[3] = {
      {.open_group = 3, .open_count = 2, .open_position = 100, .keeps_queries = true},
      {.open_group = 0, .open_count = 0, .open_position = 280, .keeps_queries = true},
      {.open_group = 1, .open_count = 15, .open_position = 0}};
  const StepRows rows_[3] = {{.sequence = 1, .row = 6, .count = 16},
                             {.sequence = 2, .row = 0, .count = 1},
                             {.sequence = 0, .row = 2, .count = 3}};
  std::unique_ptr<CudaBackend> backend_;
  std::optional<DeviceArray<uint16_t>> q_;
};

TEST_P(AppendProjectedTest, NormsRotatesAndPlacesEveryHead) {
  ASSERT_NO_FATAL_FAILURE(Append());
  const CacheShape& shape = of_.shape;
  const int dim = shape.head_dim;
  const std::vector<uint16_t> q_out = q_->Read();
  const std::vector<uint16_t> open = DeviceArray<uint16_t>::ReadDevice(
      backend_->pool().open_groups, kOpenGroups * OpenGroupBytes(shape) / 2);
  std::vector<bool> taken(kPadded);
  std::vector<bool> written(open.size());
  ForEachRow([&](const StepRows&, const SequenceView& view, uint32_t slot, uint32_t position,
                 uint32_t row) {
    taken[row] = true;
    for (int h = 0; h < of_.query_heads; ++h) {
      ExpectClose(Exact(p_, row, h, of_.norm ? &p_.q_norm : nullptr, position, of_.rotate_keys),
                  &q_out[(size_t{row} * of_.query_heads + h) * dim], "q");
    }
    for (int h = 0; h < shape.kv_heads; ++h) {
      const size_t lane = (size_t{view.open_group} * shape.layers + layer_) * shape.kv_heads + h;
      const size_t k_at = (lane * 2 * kGroupTokens + slot) * dim;
      const size_t v_at = k_at + size_t{kGroupTokens} * dim;
      ExpectClose(Exact(p_, row, of_.query_heads + h, of_.norm ? &p_.k_norm : nullptr, position,
                        of_.rotate_keys),
                  &open[k_at], "k");
      const float* v =
          &p_.qkv[(size_t{row} * p_.heads + of_.query_heads + shape.kv_heads + h) * dim];
      ExpectClose({v, v + dim}, &open[v_at], "v");
      std::fill_n(written.begin() + static_cast<int64_t>(k_at), dim, true);
      std::fill_n(written.begin() + static_cast<int64_t>(v_at), dim, true);
    }
  });
  for (uint32_t row = 0; row < kPadded; ++row) {
    for (int c = 0; !taken[row] && c < of_.query_heads * dim; ++c) {
      ASSERT_EQ(q_out[size_t{row} * of_.query_heads * dim + c], 0x4242) << "row " << row;
    }
  }
  for (size_t i = 0; i < open.size(); ++i) {
    ASSERT_TRUE(written[i] || open[i] == 0) << "open group element " << i;
  }
}

// The newest of each sequence that asks for it, the bits that q is handed on in. Attend adds none.
TEST_P(AppendProjectedTest, KeepsTheNewestQueriesOfSequencesThatAskForIt) {
  ASSERT_NO_FATAL_FAILURE(Append());
  const std::vector<uint16_t> q_out = q_->Read();
  std::vector<uint16_t> expected(KeptQueries().size());
  ForEachRow(
      [&](const StepRows& r, const SequenceView& view, uint32_t, uint32_t position, uint32_t row) {
        if (!view.keeps_queries || row + kWindow < r.row + r.count) return;
        for (int h = 0; h < of_.query_heads; ++h) {
          const size_t from = (size_t{row} * of_.query_heads + h) * p_.dim;
          std::copy_n(&q_out[from], p_.dim, &expected[KeptAt(view.open_group, h, position)]);
        }
      });
  EXPECT_EQ(KeptQueries(), expected);
  q_->Write(std::vector<uint16_t>(q_out.size()));
  const DeviceArray<uint16_t> out(q_out.size());
  const LayerActivations io{.q = q_->data(), .out = out.data(), .scale = 0.125f};
  ASSERT_EQ(backend_->Attend(layer_, io), absl::OkStatus());
  ASSERT_EQ(backend_->Synchronize(), absl::OkStatus());
  EXPECT_EQ(KeptQueries(), expected);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AppendProjectedTest,
    ::testing::Values(AppendCase{{.layers = 2, .kv_heads = 3, .head_dim = 64}, 9, false, false},
                      AppendCase{{.layers = 3, .kv_heads = 2, .head_dim = 128}, 12, false, true},
                      AppendCase{{.layers = 2, .kv_heads = 8, .head_dim = 128}, 32, true, false},
                      AppendCase{{.layers = 1, .kv_heads = 1, .head_dim = 64}, 1, true, true}),
    [](const auto& info) {
      return "Heads" + std::to_string(info.param.query_heads) + "Of" +
             std::to_string(info.param.shape.head_dim) + (info.param.norm ? "Normed" : "") +
             (info.param.rotate_keys ? "Rotated" : "");
    });

class AppendFaults : public GpuTest {
 protected:
  static constexpr CacheShape kShape = {.layers = 2, .kv_heads = 2, .head_dim = 64};
  static constexpr size_t kWidth = 2 * 64;

  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    backend_ = *NewCudaBackend(
        {.shape = kShape, .query_heads = 2, .pool_bytes = 1 << 20, .open_groups = 1, .rows_max = 4},
        {});
    const SequenceView view{.open_group = 0};
    const StepRows rows{.count = 1};
    ASSERT_EQ(backend_->BeginStep({&view, 1}, {&rows, 1}), absl::OkStatus());
  }
  absl::Status Append(const std::vector<float>& k, const std::vector<uint16_t>& v) {
    const DeviceArray<uint16_t> on_gpu(ToBf16(k)), values(v);
    EXPECT_EQ(backend_->Append(1, {.k = on_gpu.data(), .v = values.data()}), absl::OkStatus());
    return backend_->Synchronize();
  }
  std::unique_ptr<CudaBackend> backend_;
};

TEST_F(AppendFaults, ANanIsToldAtSynchronizeAndInfinitiesSaturate) {
  std::vector<float> k(4 * kWidth, 1.0f);
  std::vector<uint16_t> v(4 * kWidth, 0x3f80);
  v[70] = 0x7fc0;
  const absl::Status told = Append(k, v);
  EXPECT_EQ(told.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(told.message().find("layer 1"), std::string::npos) << told;
  EXPECT_EQ(backend_->Synchronize(), absl::OkStatus());
  v[70] = 0xff80;          // minus infinity
  v[3 * kWidth] = 0x7fc0;  // a row the step does not have
  EXPECT_EQ(Append(k, v), absl::OkStatus());
  const auto open =
      DeviceArray<uint16_t>::ReadDevice(backend_->pool().open_groups, OpenGroupBytes(kShape) / 2);
  // Layer 1, head 1, V of token 0, channel 6.
  EXPECT_EQ(open[(3 * 2 * kGroupTokens + kGroupTokens) * 64 + 6], 0xff7f);
}

TEST_F(AppendFaults, APositionPastTheRopeTableIsToldAndHarmsNothing) {
  const DeviceArray<uint16_t> qkv(4 * 6 * 64), q(4 * 2 * 64);
  const DeviceArray<float> cos_sin(64);  // position 0 only
  const SequenceView view{.open_group = 0, .open_position = 9};
  const StepRows rows{.count = 1};
  ASSERT_EQ(backend_->BeginStep({&view, 1}, {&rows, 1}), absl::OkStatus());
  ASSERT_EQ(
      backend_->AppendProjected(
          0, {.qkv = qkv.data(), .q = q.data(), .rope_cos_sin = cos_sin.data(), .positions = 1}, 4),
      absl::OkStatus());
  EXPECT_EQ(backend_->Synchronize().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(backend_->Synchronize(), absl::OkStatus());
}

TEST_F(AppendFaults, PointersThatCannotBeReadInVectorsAreRefused) {
  const DeviceArray<uint16_t> values(64);
  EXPECT_EQ(backend_->Append(0, {.k = values.data() + 1, .v = values.data()}).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace palimpsest
