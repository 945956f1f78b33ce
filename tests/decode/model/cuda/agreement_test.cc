// SPDX-License-Identifier: Apache-2.0
// The CUDA model held against transformers: against its fp32 logits on the same bf16 weights, with
// the errors of transformers' own bf16 run as the yardstick. lab/agreement/make_gpu_models.py makes
// a folder of models and recordings; PALIMPSEST_GPU_MODELS names it.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "services/decode/model/cuda/cuda_model.h"
#include "services/decode/model/safetensors.h"
#include "tests/decode/model/cuda/paged_chains.h"
#include "tests/kernels/cuda/gpu_test.h"

namespace palimpsest {
namespace {

// What is allowed of transformers-bf16's own error. Ours is less (the residual stream stays fp32,
// sums are rounded once), by how much depends on the model; divergence hangs on a row or two.
constexpr double kErrorOfYardstick = 0.9;
constexpr double kDivergenceOfYardstick = 1.25;
// And in any case: the root mean square of the logits' errors over their standard deviation, and
// the mean KL divergence, in nats, of the next-token distributions. Thirty random layers magnify
// the rounding of bf16 as trained ones do not.
constexpr double kErrorMax = 0.1;
constexpr double kDivergenceMax = 0.2;

using Rows = std::vector<std::vector<float>>;

struct Recording {
  std::string name;
  std::vector<int32_t> ids;  // the prompt and what followed
  Rows exact;                // transformers in fp32
  Rows rounded;              // transformers in bf16
};

Rows ReadRows(const std::map<std::string, TensorView, std::less<>>& tensors, const char* name) {
  const TensorView& tensor = tensors.at(name);
  std::vector<float> all(tensor.elements());
  CopyAsFloat(tensor, absl::MakeSpan(all));
  const size_t columns = tensor.shape.at(1);
  Rows rows;
  for (size_t at = 0; at < all.size(); at += columns) {
    rows.emplace_back(all.begin() + at, all.begin() + at + columns);
  }
  return rows;
}

Recording ReadRecording(const std::filesystem::path& folder) {
  std::ifstream file(folder / "recording.safetensors", std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  const auto tensors =
      ParseSafetensors({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  KV_CHECK(tensors.ok());
  std::ifstream text(folder / "recording.json");
  return {folder.filename(), nlohmann::json::parse(text).at("ids"), ReadRows(*tensors, "logits"),
          ReadRows(*tensors, "logits_bf16")};
}

struct Error {
  double worst = 0;       // largest, over the standard deviation of all logits
  double root_mean = 0;   // root mean square, over the same
  double divergence = 0;  // mean KL(exact || found)
  double divergence_worst = 0;
  int other_tokens = 0;  // rows whose likeliest token is another
};

// log softmax, in double.
std::vector<double> LogProbabilities(const std::vector<float>& logits) {
  const double best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - best);
  std::vector<double> out;
  for (const float x : logits) out.push_back(x - best - std::log(sum));
  return out;
}

Error ErrorOf(const Rows& found, const Rows& exact) {
  Error out;
  double sum = 0, square = 0, error_square = 0, count = 0;
  for (size_t row = 0; row < exact.size(); ++row) {
    const auto p = LogProbabilities(exact[row]), q = LogProbabilities(found[row]);
    double divergence = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      const double error = std::abs(double{found[row][i]} - exact[row][i]);
      out.worst = std::max(out.worst, std::isnan(error) ? HUGE_VAL : error);
      error_square += error * error;
      sum += exact[row][i];
      square += double{exact[row][i]} * exact[row][i];
      divergence += std::exp(p[i]) * (p[i] - q[i]);
    }
    count += static_cast<double>(p.size());
    out.divergence += divergence / static_cast<double>(exact.size());
    out.divergence_worst = std::max(out.divergence_worst, divergence);
    out.other_tokens += Greedy(found[row]) != Greedy(exact[row]) ? 1 : 0;
  }
  const double deviation = std::sqrt(square / count - sum / count * (sum / count));
  out.worst /= deviation;
  out.root_mean = std::sqrt(error_square / count) / deviation;
  return out;
}

std::string Line(const char* who, const Error& error, size_t rows) {
  char text[200];
  std::snprintf(text, sizeof text,
                "  %-18s worst %.4f, rms %.5f of the logits' deviation; KL mean %.2e, worst %.2e; "
                "other likeliest token in %d of %zu rows\n",
                who, error.worst, error.root_mean, error.divergence, error.divergence_worst,
                error.other_tokens, rows);
  return text;
}

class CudaAgreement : public GpuTest {
 protected:
  void Hold(const Recording& recording, const std::string& folder) {
    const auto config = LoadModelConfig(folder);
    ASSERT_TRUE(config.ok()) << config.status();
    const auto tokens = static_cast<uint32_t>(recording.ids.size());
    auto backend = BackendForChains(ConfigForChains(*config, 2, tokens, 16));
    auto model = NewCudaModel(folder, {.rows_max = 16, .logit_rows_max = 16}, backend.get());
    ASSERT_TRUE(model.ok()) << model.status();
    PagedChains chains(model->get(), backend.get(), 2);
    const Error yardstick = ErrorOf(recording.rounded, recording.exact);
    std::cout << recording.name << ", " << tokens << " positions, "
              << recording.exact.front().size() << " logits each\n"
              << Line("transformers bf16", yardstick, tokens);
    // As a prompt is read, and as tokens are generated.
    for (const uint32_t step_tokens : {16u, 1u}) {
      const uint32_t sequence = step_tokens == 1 ? 1 : 0;
      const Error ours =
          ErrorOf(chains.FeedAll(sequence, recording.ids, step_tokens), recording.exact);
      std::cout << Line(step_tokens == 1 ? "ours, 1 a step" : "ours, 16 a step", ours, tokens);
      EXPECT_LE(ours.root_mean, kErrorOfYardstick * yardstick.root_mean) << recording.name;
      EXPECT_LE(ours.divergence, kDivergenceOfYardstick * yardstick.divergence) << recording.name;
      EXPECT_LE(ours.root_mean, kErrorMax) << recording.name;
      EXPECT_LE(ours.divergence, kDivergenceMax) << recording.name;
    }
  }
};

TEST_F(CudaAgreement, LogitsAreNearerToTransformersFp32ThanItsOwnBf16Ones) {
  const char* given = std::getenv("PALIMPSEST_GPU_MODELS");
  if (given == nullptr) {
    GTEST_SKIP() << "PALIMPSEST_GPU_MODELS names no folder; lab/agreement/make_gpu_models.py makes "
                    "one";
  }
  int models = 0;
  for (const auto& entry : std::filesystem::directory_iterator(given)) {
    if (!std::filesystem::exists(entry.path() / "recording.json")) continue;
    Hold(ReadRecording(entry.path()), entry.path().string());
    ++models;
  }
  EXPECT_GT(models, 0) << given;
}

}  // namespace
}  // namespace palimpsest
