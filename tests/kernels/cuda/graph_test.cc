// SPDX-License-Identifier: Apache-2.0
// A captured step serves every later one: launches depend on the configuration alone, tables lie
// where they always lie.
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
      LayerActivations io{.q = q.data(), .k = k.data(), .v = v.data(), .scale = 0.09f};
      io.out = out.data() + layer * kRowsMax * kQueryHeads * 128;
      EXPECT_EQ(backend->Append(layer, io), absl::OkStatus());
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
  std::unique_ptr<CUgraphExec_st, GraphFree> graph;
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
    if (graph == nullptr) {
      cudaGraph_t captured = nullptr;
      ASSERT_EQ(cudaStreamBeginCapture(backend->stream(), cudaStreamCaptureModeGlobal),
                cudaSuccess);
      io.Layers(backend.get());
      ASSERT_EQ(cudaStreamEndCapture(backend->stream(), &captured), cudaSuccess);
      cudaGraphExec_t made = nullptr;
      ASSERT_EQ(cudaGraphInstantiate(&made, captured, 0), cudaSuccess);
      graph.reset(made);
      ASSERT_EQ(cudaGraphDestroy(captured), cudaSuccess);
    }
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

}  // namespace
}  // namespace palimpsest
