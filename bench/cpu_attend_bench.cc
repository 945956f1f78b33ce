// SPDX-License-Identifier: Apache-2.0
// How quickly the CPU backend reads a compressed cache, in GB/s of page bytes and in tokens, next
// to the machine's copy speed measured in the same run. One decode step of one layer: every KV head
// of every sequence. Verifies against fp64 first; prints one JSON line; exit code 1 when wrong.
#include <benchmark/benchmark.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/flags.h"
#include "kernels/cpu/codec.h"
#include "kernels/cpu/cpu_backend.h"

namespace palimpsest {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  int threads = 2;
  uint32_t tokens = 4096;  // a sequence; a multiple of 16
  uint32_t batch = 1;
  std::string model = "reasoner";
};

struct Model {
  CacheShape shape;  // one layer: a step's layers are alike
  int query_heads;
};
Model ModelNamed(const std::string& name) {
  if (name == "smollm2") return {{.layers = 1, .kv_heads = 3, .head_dim = 64}, 9};
  if (name == "llama3") return {{.layers = 1, .kv_heads = 8, .head_dim = 128}, 32};
  return {{.layers = 1, .kv_heads = 2, .head_dim = 64}, 4};
}

// A batch of equal sequences with all their tokens sealed, and one step's activations.
struct Case {
  Case(const Options& options, PageFormat format)
      : model(ModelNamed(options.model)), layout(MakePageLayout(model.shape, format)) {
    const uint32_t pages_each = options.tokens / kSlotsPerPage;
    backend =
        *NewCpuBackend({.shape = model.shape,
                        .query_heads = model.query_heads,
                        .pool_bytes = uint64_t{options.batch} * pages_each * layout.page_bytes,
                        .open_groups = options.batch,
                        .rows_max = std::max<uint32_t>(kGroupTokens, options.batch)},
                       options.threads);
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    const size_t dim = model.shape.head_dim;
    q.resize(options.batch * model.query_heads * dim);
    out.resize(q.size());
    std::vector<float> k(kGroupTokens * model.shape.kv_heads * dim), v(k.size());
    pages.resize(options.batch);
    for (uint32_t s = 0; s < options.batch; ++s) {
      SequenceView view{.formats = ClassFormats::Uniform(format), .open_group = s};
      for (uint32_t p = 0; p < pages_each; ++p) {
        for (auto* x : {&k, &v})
          std::generate(x->begin(), x->end(), [&] { return normal(engine); });
        if (s == 0) AppendTo(&keys, &values, k, v);
        const StepRows rows{.count = kGroupTokens};
        view.open_count = 0;
        Must(backend->BeginStep({&view, 1}, {&rows, 1}));
        Must(backend->Append(0, {.k = k.data(), .v = v.data()}));
        view.open_count = kGroupTokens;
        view.open_position = p * kGroupTokens;
        pages[s].push_back((uint64_t{s} * pages_each + p) * layout.page_bytes);
        view.pages[Index(Thought::kReasoning)] = {&pages[s].back(), 1};
        const SealOrder seal{.thought = Thought::kReasoning};
        Must(backend->Seal({&view, 1}, {&seal, 1}));
      }
      view.pages[Index(Thought::kReasoning)] = pages[s];
      view.open_count = 0;
      views.push_back(view);
      rows.push_back({.sequence = s, .row = s, .count = 1});
    }
    std::generate(q.begin(), q.end(), [&] { return 2.0f * normal(engine); });
    // The step's own token: in every sequence the last group's first key.
    io = {.q = q.data(), .out = out.data(), .scale = 1.0f / std::sqrt(static_cast<float>(dim))};
    own_k.assign(k.begin(), k.begin() + model.shape.kv_heads * dim);
    own_v.assign(v.begin(), v.begin() + model.shape.kv_heads * dim);
    std::vector<float> step_k, step_v;
    for (uint32_t s = 0; s < options.batch; ++s) AppendTo(&step_k, &step_v, own_k, own_v);
    Must(backend->BeginStep(views, rows));
    Must(backend->Append(0, {.k = step_k.data(), .v = step_v.data()}));
  }

  static void Must(const absl::Status& status) {
    if (status.ok()) return;
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    std::exit(1);
  }
  void AppendTo(std::vector<float>* keys, std::vector<float>* values, const std::vector<float>& k,
                const std::vector<float>& v) {
    keys->insert(keys->end(), k.begin(), k.end());
    values->insert(values->end(), v.begin(), v.end());
  }
  void Step() { Must(backend->Attend(0, io)); }

  // Largest error of sequence 0 against fp64 over the de-quantised tokens.
  double Verify() {
    Step();
    const int dim = model.shape.head_dim, heads = model.shape.kv_heads;
    const auto decoded = [&](Format format, const float* x) {
      std::vector<float> bf16(dim), y(dim);
      std::vector<uint8_t> data(2 * dim), scales(dim);
      for (int c = 0; c < dim; ++c) bf16[c] = Bf16ToFloat(FloatToBf16(x[c]));
      EncodeSlot(format, bf16.data(), dim, data.data(), scales.data());
      DecodeSlot(format, data.data(), scales.data(), dim, y.data());
      return y;
    };
    double error = 0;
    for (int h = 0; h < heads; ++h) {
      std::vector<std::vector<float>> k, v;
      for (size_t at = h * dim; at < keys.size(); at += heads * dim) {
        k.push_back(decoded(layout.format.k, &keys[at]));
        v.push_back(decoded(layout.format.v, &values[at]));
      }
      k.push_back(decoded(Format::kBf16, &own_k[h * dim]));
      v.push_back(decoded(Format::kBf16, &own_v[h * dim]));
      const int group = model.query_heads / heads;
      for (int g = 0; g < group; ++g) {
        error = std::max(error, HeadError(k, v, (h * group + g) * dim));
      }
    }
    return error;
  }
  double HeadError(const std::vector<std::vector<float>>& k,
                   const std::vector<std::vector<float>>& v, size_t at) const {
    const int dim = model.shape.head_dim;
    std::vector<double> exact(dim, 0.0);
    double sum = 0, error = 0;  // logits here stay far below where exp overflows
    for (size_t t = 0; t < k.size(); ++t) {
      double logit = 0;
      for (int c = 0; c < dim; ++c) logit += double{q[at + c]} * k[t][c];
      const double weight = std::exp(logit * io.scale);
      sum += weight;
      for (int c = 0; c < dim; ++c) exact[c] += weight * v[t][c];
    }
    for (int c = 0; c < dim; ++c) error = std::max(error, std::fabs(out[at + c] - exact[c] / sum));
    return error;
  }

  Model model;
  PageLayout layout;
  std::unique_ptr<Backend> backend;
  std::vector<std::vector<PageOffset>> pages;
  std::vector<SequenceView> views;
  std::vector<StepRows> rows;
  std::vector<float> q, out, keys, values, own_k, own_v;
  LayerActivations io;
};

struct Seconds {
  double median = 0;
  double best = 0;  // on a shared machine: what the code can do when it is let
};

// Wall time of one call.
template <typename Body>
Seconds Time(const Body& body) {
  for (int i = 0; i < 3; ++i) body();
  std::vector<double> seconds;
  const auto end = Clock::now() + std::chrono::milliseconds(400);
  while (Clock::now() < end || seconds.size() < 5) {
    const auto start = Clock::now();
    body();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return {.median = seconds[seconds.size() / 2], .best = seconds.front()};
}

// Bytes read a second by one core copying 64 MiB, at best.
double CopyGbps() {
  const size_t bytes = size_t{64} << 20;
  std::vector<char> from(bytes, 1), to(bytes, 2);
  return bytes / 1e9 / Time([&] {
                         std::memcpy(to.data(), from.data(), bytes);
                         benchmark::DoNotOptimize(to.data());
                         benchmark::ClobberMemory();
                       }).best;
}

int Run(const Options& options) {
  constexpr PageFormat kPairs[] = {
      {Format::kBf16, Format::kBf16},     {Format::kFp8, Format::kFp8},
      {Format::kNvfp4, Format::kNvfp4},   {Format::kInt4, Format::kInt4},
      {Format::kNvfp4, Format::kTernary}, {Format::kTernary, Format::kTernary}};
  std::string results;
  for (const PageFormat& pair : kPairs) {
    Case bench(options, pair);
    const double error = bench.Verify();
    if (!(error < 2e-5)) {
      std::fprintf(stderr, "%s/%s: error %g against fp64\n", std::string(Name(pair.k)).c_str(),
                   std::string(Name(pair.v)).c_str(), error);
      return 1;
    }
    const Seconds seconds = Time([&] { bench.Step(); });
    const double tokens = double{1} * options.batch * options.tokens;
    const double bytes = tokens / kSlotsPerPage * static_cast<double>(bench.layout.page_bytes);
    const double full = tokens * static_cast<double>(FullTokenBytes(bench.model.shape));
    char text[256];
    std::snprintf(text, sizeof(text),
                  "%s{\"k\":\"%s\",\"v\":\"%s\",\"gbps\":%.2f,\"gbps_best\":%.2f,"
                  "\"bf16_equivalent_gbps_best\":%.2f,\"mtokens_per_s_best\":%.1f,\"error\":%.1e}",
                  results.empty() ? "" : ",", std::string(Name(pair.k)).c_str(),
                  std::string(Name(pair.v)).c_str(), bytes / 1e9 / seconds.median,
                  bytes / 1e9 / seconds.best, full / 1e9 / seconds.best,
                  tokens / 1e6 / seconds.best, error);
    results += text;
  }
  std::printf(
      "{\"bench\":\"cpu_attend\",\"model\":\"%s\",\"threads\":%d,\"batch\":%u,\"tokens\":%u,"
      "\"copy_gbps_one_core\":%.2f,\"results\":[%s]}\n",
      options.model.c_str(), options.threads, options.batch, options.tokens, CopyGbps(),
      results.c_str());
  return 0;
}

}  // namespace
}  // namespace palimpsest

int main(int argc, char** argv) {
  namespace flags = palimpsest::bench::flags;
  palimpsest::Options options;
  CLI::App app("The CPU backend's attention over compressed pages: GB/s, tokens/s.");
  app.add_option("--threads", options.threads, "of the backend")
      ->check(flags::Whole(1, 1024))
      ->capture_default_str();
  app.add_option("--tokens", options.tokens, "of a sequence")
      ->check(flags::Groups(16, 1 << 20))
      ->capture_default_str();
  app.add_option("--batch", options.batch, "sequences")
      ->check(flags::KernelBatch())
      ->capture_default_str();
  app.add_option("--model", options.model, "whose shape")
      ->check(CLI::IsMember({"reasoner", "smollm2", "llama3"}))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return palimpsest::Run(options);
}
