// SPDX-License-Identifier: Apache-2.0
// A captured step serves every later one: launches depend on the configuration alone, tables lie
// where they always lie.
#include <array>
#include <random>

#include "tests/kernels/cuda/backend_pair.h"

namespace palimpsest {
namespace {

constexpr CacheShape kShape = {.layers = 2, .kv_heads = 2, .head_dim = 128};
constexpr int kQueryHeads = 8;
constexpr uint32_t kRowsMax = 40;
constexpr Thought kR = Thought::kReasoning;

using GraphTest = GpuTest;

struct GraphFree {
  void operator()(cudaGraphExec_t graph) const { (void)cudaGraphExecDestroy(graph); }
};
using Graph = std::unique_ptr<CUgraphExec_st, GraphFree>;

template <typename Enqueue>
Graph Capture(cudaStream_t stream, const Enqueue& enqueue) {
  cudaGraph_t captured = nullptr;
  EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  enqueue();
  EXPECT_EQ(cudaStreamEndCapture(stream, &captured), cudaSuccess);
  cudaGraphExec_t made = nullptr;
  EXPECT_EQ(cudaGraphInstantiate(&made, captured, 0), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(captured), cudaSuccess);
  return Graph(made);
}

// The activations of a step's two layers, at addresses that stay.
struct Activations {
  Activations() {
    std::mt19937_64 engine(3);
    std::normal_distribution<float> normal;
    for (DeviceArray<uint16_t>* array : {&q, &k, &v}) {
      std::vector<float> values(array->Read().size());
      for (float& x : values) x = normal(engine);
      array->Write(ToBf16(values));
    }
  }
  DeviceArray<uint16_t> q{kRowsMax * kQueryHeads * 128}, k{kRowsMax * 2 * 128},
      v{kRowsMax * 2 * 128}, out{2 * kRowsMax * kQueryHeads * 128};

  void Layers(CudaBackend* backend) const {
    for (int layer = 0; layer < kShape.layers; ++layer) {
      const LayerActivations io{
          .q = q.data(), .out = out.data() + layer * kRowsMax * kQueryHeads * 128, .scale = 0.09f};
      EXPECT_EQ(backend->Append(layer, {.k = k.data(), .v = v.data()}), absl::OkStatus());
      EXPECT_EQ(backend->Attend(layer, io), absl::OkStatus());
    }
  }
};

TEST_F(GraphTest, ACapturedStepReplayedGivesWhatAnUncapturedOneGives) {
  const uint64_t page_bytes = MakePageLayout(kShape, {}).page_bytes;
  constexpr uint32_t kSequences = 6, kPages = 12;
  auto backend = *NewCudaBackend({.shape = kShape,
                                  .query_heads = kQueryHeads,
                                  .pool_bytes = kSequences * kPages * page_bytes,
                                  .open_groups = kSequences,
                                  .rows_max = kRowsMax},
                                 {});
  const Activations io;
  std::vector<std::vector<PageOffset>> pages(kSequences);
  std::vector<SequenceView> views(kSequences);
  for (uint32_t i = 0; i < kSequences; ++i) {
    views[i] = {.open_group = i};
    for (uint32_t j = 0; j < kPages; ++j) pages[i].push_back((j * kSequences + i) * page_bytes);
  }
  // Step `n`: some sequences with some rows each; those that filled their group seal it.
  Graph graph;
  std::mt19937_64 engine(4);
  std::vector<uint32_t> sealed(kSequences);
  for (int step = 0; step < 40; ++step) {
    std::vector<StepRows> rows;
    uint32_t row = 0;
    for (uint32_t i = 0; i < kSequences; ++i) {
      const uint32_t count = std::min<uint32_t>(engine() % 4, 16 - views[i].open_count);
      if (count == 0 || row + count > kRowsMax) continue;
      rows.push_back({.sequence = i, .row = row, .count = count});
      row += count;
    }
    ASSERT_EQ(backend->BeginStep(views, rows), absl::OkStatus());
    const std::vector<uint16_t> blank(2 * kRowsMax * kQueryHeads * 128, 0x1234);
    io.out.Write(blank);
    io.Layers(backend.get());
    ASSERT_EQ(backend->Synchronize(), absl::OkStatus());
    const std::vector<uint16_t> direct = io.out.Read();
    if (graph == nullptr) graph = Capture(backend->stream(), [&] { io.Layers(backend.get()); });
    io.out.Write(blank);
    ASSERT_EQ(cudaGraphLaunch(graph.get(), backend->stream()), cudaSuccess);
    ASSERT_EQ(backend->Synchronize(), absl::OkStatus());
    ASSERT_EQ(io.out.Read(), direct) << "step " << step << " of " << row << " rows";

    std::vector<SealOrder> orders;
    for (const StepRows& r : rows) views[r.sequence].open_count += r.count;
    for (uint32_t i = 0; i < kSequences; ++i) {
      if (views[i].open_count < 16 || sealed[i] == kPages) continue;
      views[i].pages[Index(kR)] = absl::MakeConstSpan(pages[i]).first(++sealed[i]);
      orders.push_back({.sequence = i, .thought = kR});
    }
    ASSERT_EQ(backend->Seal(views, orders), absl::OkStatus());
    ASSERT_EQ(backend->Synchronize(), absl::OkStatus());
    for (const SealOrder& order : orders) {
      views[order.sequence].open_count = 0;
      views[order.sequence].open_position += 16;
    }
  }
}

// A backend whose sequences are judged by attention, and their host's side.
class JudgedSequences {
 public:
  JudgedSequences() {
    const CacheShape shape = {.layers = 2, .kv_heads = 2, .head_dim = 128, .slot_scores = true};
    const uint64_t page_bytes = MakePageLayout(shape, {}).page_bytes;
    pool_bytes_ = kScores.size() * kPages * page_bytes;
    backend_ = *NewCudaBackend({.shape = shape,
                                .query_heads = kQueryHeads,
                                .pool_bytes = pool_bytes_,
                                .open_groups = static_cast<uint32_t>(kScores.size()),
                                .rows_max = kRowsMax},
                               {});
    for (uint32_t i = 0; i < kScores.size(); ++i) {
      auto& pages = pages_.emplace_back();
      for (uint32_t j = 0; j < kPages; ++j) pages.push_back((i * kPages + j) * page_bytes);
      views_.push_back({.open_group = i, .slot_score = kScores[i]});
    }
  }

  CudaBackend* backend() const { return backend_.get(); }
  std::vector<uint8_t> Pool() const { return BackendPair::Bytes(*backend_, 0, pool_bytes_); }

  // A step of `count` rows each: `layers` does what is captured.
  template <typename Layers>
  void Step(uint32_t count, const Layers& layers) {
    std::vector<StepRows> rows;
    for (uint32_t i = 0; i < views_.size(); ++i) {
      rows.push_back({.sequence = i, .row = i * count, .count = count});
    }
    EXPECT_EQ(backend_->BeginStep(views_, rows), absl::OkStatus());
    layers();
    for (SequenceView& view : views_) view.open_count += count;
    if (views_[0].open_count == kGroupTokens) Seal();
    EXPECT_EQ(backend_->Synchronize(), absl::OkStatus());
  }

 private:
  static constexpr std::array<SlotScore, 3> kScores = {SlotScore::kValueNorm, SlotScore::kNone,
                                                       SlotScore::kAttentionReceived};
  static constexpr uint32_t kPages = 4;

  void Seal() {
    ++sealed_;
    std::vector<SealOrder> orders;
    for (uint32_t i = 0; i < views_.size(); ++i) {
      SequenceView& view = views_[i];
      // What evicts a token a step never needs another page.
      const uint32_t pages = view.slot_score == SlotScore::kValueNorm ? 1 : sealed_;
      view.pages[Index(kR)] = absl::MakeConstSpan(pages_[i]).first(pages);
      orders.push_back({.sequence = i, .thought = kR});
    }
    EXPECT_EQ(backend_->Seal(views_, orders), absl::OkStatus());
    for (SequenceView& view : views_) {
      view.open_count = 0;
      view.open_position += kGroupTokens;
      if (view.slot_score == SlotScore::kValueNorm) view.evict_from = 0;
    }
  }

  uint64_t pool_bytes_ = 0;
  std::unique_ptr<CudaBackend> backend_;
  std::vector<std::vector<PageOffset>> pages_;
  std::vector<SequenceView> views_;
  uint32_t sealed_ = 0;
};

TEST_F(GraphTest, ACapturedStepScoresAndEvictsAsAnUncapturedOne) {
  const Activations io;
  JudgedSequences direct, replayed;
  Graph graph;
  for (JudgedSequences* of : {&direct, &replayed}) {
    of->Step(kGroupTokens - 8, [&] { io.Layers(of->backend()); });
    of->Step(8, [&] { io.Layers(of->backend()); });
  }
  for (int step = 0; step < 3 * kGroupTokens; ++step) {
    direct.Step(1, [&] { io.Layers(direct.backend()); });
    replayed.Step(1, [&] {
      CudaBackend* const backend = replayed.backend();
      if (graph == nullptr) graph = Capture(backend->stream(), [&] { io.Layers(backend); });
      EXPECT_EQ(cudaGraphLaunch(graph.get(), backend->stream()), cudaSuccess);
    });
    ASSERT_EQ(replayed.Pool(), direct.Pool()) << "step " << step;
  }
}

}  // namespace
}  // namespace palimpsest
