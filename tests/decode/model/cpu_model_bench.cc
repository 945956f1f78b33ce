// SPDX-License-Identifier: Apache-2.0
// Decode speed of the CPU model alone: attention and pages cost nothing here. Checks that a batch
// gives the logits its members give alone, warms up, then times steps of one token a sequence.
//   cpu_model_bench [threads]      prints one JSON line for each batch size
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "common/base/check.h"
#include "services/decode/model/cpu_model.h"

namespace palimpsest {
namespace {

// Gives the queries back as attention: the cheapest thing that depends on the input.
class FreeBackend final : public Backend {
 public:
  explicit FreeBackend(const ModelConfig& config) : query_size_(config.query_size()) {}

  ActivationType activation_type() const override { return ActivationType::kFloat32; }
  absl::Status BeginStep(absl::Span<const SequenceView>, absl::Span<const StepRows> rows) override {
    row_count_ = rows.back().row + rows.back().count;
    return absl::OkStatus();
  }
  absl::Status Append(int, const NewTokens&) override { return absl::OkStatus(); }
  absl::Status Attend(int, const LayerActivations& io) override {
    const size_t count = row_count_ * query_size_;
    std::copy_n(static_cast<const float*>(io.q), count, static_cast<float*>(io.out));
    return absl::OkStatus();
  }
  absl::Status MeasureSparsity(int, absl::Span<const uint32_t>, const LayerActivations&,
                               absl::Span<float>) override {
    return absl::OkStatus();
  }
  absl::Status Seal(absl::Span<const SequenceView>, absl::Span<const SealOrder>) override {
    return absl::OkStatus();
  }
  absl::Status Anneal(absl::Span<const SequenceView>, absl::Span<const AnnealOrder>) override {
    return absl::OkStatus();
  }
  absl::Status Zero(PageOffset, uint64_t) override { return absl::OkStatus(); }
  absl::Status ZeroOpenGroup(uint32_t) override { return absl::OkStatus(); }
  absl::Status Read(PageOffset, absl::Span<uint8_t>) const override { return absl::OkStatus(); }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::Status AwaitSparsity() override { return absl::OkStatus(); }

 private:
  const size_t query_size_;
  size_t row_count_ = 0;
};

std::vector<float> Step(Model& model, uint32_t batch, uint32_t tokens_each) {
  FreeBackend backend(model.config());
  std::vector<int32_t> tokens;
  std::vector<SequenceView> views(batch);
  std::vector<StepRows> rows;
  std::vector<uint32_t> wanted;
  for (uint32_t i = 0; i < batch; ++i) {
    views[i].open_position = 16 * 37;
    rows.push_back({i, i * tokens_each, tokens_each});
    for (uint32_t t = 0; t < tokens_each; ++t) tokens.push_back((i * 7 + t) % 100);
    if (tokens_each == 1) wanted.push_back(i);
  }
  std::vector<float> logits(wanted.size() * model.config().vocab_size);
  KV_CHECK(
      model.Forward({tokens, views, rows, wanted, nullptr}, backend, absl::MakeSpan(logits)).ok());
  return logits;
}

void Measure(Model& model, uint32_t batch, uint32_t tokens_each, int threads) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  const auto start = Clock::now();
  for (int i = 0; i < 20 || Clock::now() - start < std::chrono::seconds(2); ++i) {
    const auto before = Clock::now();
    Step(model, batch, tokens_each);
    if (i >= 10) seconds.push_back(std::chrono::duration<double>(Clock::now() - before).count());
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double p99 = seconds[seconds.size() * 99 / 100];
  std::printf(
      "{\"bench\":\"cpu_model\",\"threads\":%d,\"batch\":%u,\"tokens_each\":%u,"
      "\"step_us_best\":%.1f,\"step_us_median\":%.1f,\"step_us_p99\":%.1f,"
      "\"tokens_per_s_median\":%.0f,\"tokens_per_s_best\":%.0f}\n",
      threads, batch, tokens_each, seconds[0] * 1e6, median * 1e6, p99 * 1e6,
      batch * tokens_each / median, batch * tokens_each / seconds[0]);
}

int Main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  ModelConfig reasoner;
  reasoner.hidden_size = 256;
  reasoner.layers = 8;
  reasoner.query_heads = 4;
  reasoner.kv_heads = 2;
  reasoner.head_dim = 64;
  reasoner.intermediate_size = 768;
  reasoner.vocab_size = 128;
  reasoner.tied_embeddings = true;
  reasoner.max_positions = 16384;
  auto model = NewSyntheticCpuModel(reasoner, 1, {.threads = threads});
  KV_CHECK(model.ok());
  const std::vector<float> alone = Step(**model, 1, 1);
  const std::vector<float> batch = Step(**model, 16, 1);
  for (size_t i = 0; i < alone.size(); ++i) KV_CHECK(std::abs(alone[i] - batch[i]) < 1e-4);
  for (const uint32_t n : {1, 8, 16, 17, 32, 64}) Measure(**model, n, 1, threads);
  for (const uint32_t n : {1, 8, 32}) Measure(**model, n, 16, threads);
  return 0;
}

}  // namespace
}  // namespace palimpsest

int main(int argc, char** argv) { return palimpsest::Main(argc, argv); }
