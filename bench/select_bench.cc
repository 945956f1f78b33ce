// SPDX-License-Identifier: Apache-2.0
// What an anneal that chooses tokens costs on the GPU: all sequences of a batch at the end of a
// window, every lane (layer, KV head) by itself. Verifies every shape, format and method on one
// layer against the CPU backend first; prints one JSON line a case, a line about the device before
// them; exit code 1 when a case is wrong or fails.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <bit>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/flags.h"
#include "bench/gpu/ceilings.h"
#include "bench/gpu/device_line.h"
#include "bench/gpu/graph_timer.h"
#include "bench/gpu/on_device.h"
#include "bench/gpu/tensor_ceiling.h"
#include "bench/select_bed.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kernels/cpu/codec.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/query_codebook.h"

namespace palimpsest::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr Thought kR = Thought::kReasoning;
constexpr double kAgreeMin =
    0.995;  // survivors that must be the CPU's; ties of rounding are others
constexpr uint32_t kQueryWindow = 8;

constexpr const char* kShapes[] = {"reasoner", "llama-3-8b"};
constexpr const char* kMethods[] = {"anticipate", "rkv", "random"};

struct Options {
  std::vector<std::string> shapes = {std::begin(kShapes), std::end(kShapes)};
  std::vector<std::string> formats = {"bf16", "nvfp4"};
  std::vector<std::string> methods = {std::begin(kMethods), std::end(kMethods)};
  std::vector<uint32_t> batches = {1, 16, 64};
  std::vector<uint32_t> budgets = {512, 1024, 2048};
  std::vector<uint32_t> queries = {64, 128, 256, 1024};
  std::vector<uint32_t> windows = {64, 128};
  bool uneven = false;
  double step_us = 0;
  double seconds = 0.1;
};

struct Model {
  CacheShape shape;
  int query_heads;
};
Model ModelOf(const std::string& name) {
  if (name == "reasoner") return Model{{.layers = 8, .kv_heads = 2, .head_dim = 64}, 4};
  KV_CHECK(name == "llama-3-8b");
  return Model{{.layers = 32, .kv_heads = 8, .head_dim = 128}, 32};
}

// A way to choose, as its policy uses it.
struct Method {
  Selection selection;
  std::vector<uint32_t> windows;  // tokens between two anneals
};
Method MethodOf(const std::string& name, const Options& options) {
  if (name == "anticipate") {
    return Method{{.selector = Selector::kAnticipated, .recent = 16}, options.windows};
  }
  if (name == "rkv") return Method{{.selector = Selector::kJointScore, .recent = 8}, {128}};
  KV_CHECK(name == "random");
  return Method{{.selector = Selector::kRandom, .recent = 0}, {16}};
}

// The same tokens in a CPU and a GPU backend of one layer; the share of survivors that agree.
class Agreement {
 public:
  static absl::StatusOr<double> Of(const Model& model, PageFormat format, const Method& method,
                                   uint32_t queries) {
    Agreement of(model, format, method);
    KV_RETURN_IF_ERROR(of.MakeBackends(queries));
    KV_RETURN_IF_ERROR(of.Fill());
    return of.Compare();
  }

 private:
  static constexpr uint32_t kPages = 20;
  static constexpr uint32_t kKeep = 256;

  Agreement(const Model& model, PageFormat format, const Method& method)
      : query_heads_(model.query_heads), method_(method) {
    shape_ = model.shape;
    shape_.layers = 1;
    layout_ = MakePageLayout(shape_, format);
    for (uint32_t i = 0; i < kPages; ++i) offsets_.push_back(i * layout_.page_bytes);
    view_.formats = ClassFormats::Uniform(format);
    view_.open_group = 0;
    view_.keeps_queries = NeedsQueries(method.selection.selector);
  }

  absl::Status MakeBackends(uint32_t queries) {
    BackendConfig config = {.shape = shape_,
                            .query_heads = query_heads_,
                            .pool_bytes = kPages * layout_.page_bytes,
                            .open_groups = 1,
                            .rows_max = kGroupTokens,
                            .query_window = kQueryWindow};
    if (queries > 0) config.codebook = RandomCodebook(shape_, query_heads_, queries);
    KV_ASSIGN_OR_RETURN(gpu_, NewCudaBackend(config, {}));
    KV_ASSIGN_OR_RETURN(
        cpu_,
        NewCpuBackend(config, std::max(1, static_cast<int>(std::thread::hardware_concurrency()))));
    return absl::OkStatus();
  }

  std::vector<uint16_t> Draw(int heads) {
    std::vector<uint16_t> bits(static_cast<size_t>(kGroupTokens) * heads * shape_.head_dim);
    for (uint16_t& x : bits) x = FloatToBf16(normal_(engine_));
    return bits;
  }
  static std::vector<float> Floats(const std::vector<uint16_t>& bits) {
    std::vector<float> values;
    values.reserve(bits.size());
    for (const uint16_t x : bits) values.push_back(Bf16ToFloat(x));
    return values;
  }
  absl::StatusOr<cuda::DeviceBytes> Upload(const std::vector<uint16_t>& bits) {
    KV_ASSIGN_OR_RETURN(cuda::DeviceBytes memory,
                        cuda::AllocateDevice(bits.size() * 2, gpu_->stream(), "rows"));
    KV_RETURN_IF_ERROR(cuda::ToStatus(cudaMemcpyAsync(memory.get(), bits.data(), bits.size() * 2,
                                                      cudaMemcpyHostToDevice, gpu_->stream()),
                                      "rows"));
    return memory;
  }

  // Keys come in families, so that some are similar.
  std::vector<uint16_t> DrawKeys() {
    std::vector<uint16_t> keys = Draw(shape_.kv_heads);
    const size_t width = keys.size() / kGroupTokens;
    for (size_t i = width; i < keys.size(); ++i) {
      if (i / width % 4 == 0) continue;
      keys[i] = FloatToBf16(Bf16ToFloat(keys[i - width]) + 0.5f * Bf16ToFloat(keys[i]));
    }
    return keys;
  }

  absl::Status Fill() {
    const StepRows rows{.count = kGroupTokens};
    const SealOrder order{.thought = kR};
    for (uint32_t page = 0; page < kPages; ++page) {
      view_.pages[Index(kR)] = absl::MakeConstSpan(offsets_).first(page + 1);
      view_.open_count = 0;
      const std::vector<uint16_t> k = DrawKeys(), v = Draw(shape_.kv_heads), q = Draw(query_heads_);
      KV_ASSIGN_OR_RETURN(const cuda::DeviceBytes gpu_k, Upload(k));
      KV_ASSIGN_OR_RETURN(const cuda::DeviceBytes gpu_v, Upload(v));
      KV_ASSIGN_OR_RETURN(const cuda::DeviceBytes gpu_q, Upload(q));
      const std::vector<float> cpu_k = Floats(k), cpu_v = Floats(v);
      std::vector<float> cpu_q = Floats(q);
      const auto step = [&](Backend& backend, const NewTokens& tokens) -> absl::Status {
        SequenceView view = view_;
        KV_RETURN_IF_ERROR(backend.BeginStep({&view, 1}, {&rows, 1}));
        KV_RETURN_IF_ERROR(backend.Append(0, tokens));
        view.open_count = kGroupTokens;
        KV_RETURN_IF_ERROR(backend.Seal({&view, 1}, {&order, 1}));
        return backend.Synchronize();
      };
      KV_RETURN_IF_ERROR(step(*cpu_, {.q = cpu_q.data(), .k = cpu_k.data(), .v = cpu_v.data()}));
      KV_RETURN_IF_ERROR(step(*gpu_, {.q = gpu_q.get(), .k = gpu_k.get(), .v = gpu_v.get()}));
      view_.open_position += kGroupTokens;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<double> Compare() {
    const AnnealOrder order{.thought = kR,
                            .end_position = kPages * kSlotsPerPage,
                            .keep = kKeep,
                            .selection = method_.selection};
    std::vector<uint8_t> pages[2];
    for (int i = 0; i < 2; ++i) {
      Backend& backend = i == 0 ? *cpu_ : static_cast<Backend&>(*gpu_);
      KV_RETURN_IF_ERROR(backend.Anneal({&view_, 1}, {&order, 1}));
      pages[i].resize(kPages * layout_.page_bytes);
      KV_RETURN_IF_ERROR(backend.Read(0, absl::MakeSpan(pages[i])));
      KV_RETURN_IF_ERROR(backend.Synchronize());
    }
    int alike = 0, survivors = 0;
    for (const PageOffset page : offsets_) {
      for (int i = 0; i < 2 * shape_.lanes(); ++i) {
        const uint64_t at = page + layout_.masks_offset + i;
        survivors += std::popcount(pages[1][at]);
        alike += std::popcount(static_cast<uint8_t>(pages[0][at] & pages[1][at]));
      }
    }
    if (survivors != static_cast<int>(kKeep) * shape_.lanes()) return 0.0;
    return static_cast<double>(alike) / survivors;
  }

  CacheShape shape_;
  const int query_heads_;
  const Method method_;
  PageLayout layout_;
  std::vector<PageOffset> offsets_;
  SequenceView view_;
  std::unique_ptr<CudaBackend> gpu_;
  std::unique_ptr<Backend> cpu_;
  std::mt19937 engine_{5};
  std::normal_distribution<float> normal_;
};

// Operations that tensor cores have to do for a lane.
double Operations(const std::string& method, double live, double queries, double dim) {
  if (method == "anticipate") return 8 * live * queries * dim;
  return method == "rkv" ? 2 * live * live * dim : 0;
}

class Bench {
 public:
  Bench(const Options& options, double tensor_tflops)
      : options_(options), tensor_tflops_(tensor_tflops) {}

  absl::Status Run() {
    for (const std::string& shape : options_.shapes) {
      for (const std::string& format : options_.formats) {
        for (const std::string& method : options_.methods) {
          KV_RETURN_IF_ERROR(RunMethod(shape, format, method));
        }
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::Status RunMethod(const std::string& shape, const std::string& format,
                         const std::string& method) {
    const std::vector<uint32_t> none = {0};
    for (const uint32_t queries : method == "anticipate" ? options_.queries : none) {
      Json line = {{"bench", "select"}, {"shape", shape}, {"format", format}, {"method", method}};
      if (queries > 0) line["queries"] = queries;
      const Model model = ModelOf(shape);
      const Method of = MethodOf(method, options_);
      KV_ASSIGN_OR_RETURN(const Format of_both, ParseFormat(format));
      const PageFormat page{of_both, of_both};
      KV_ASSIGN_OR_RETURN(const double agree,
                          Agreement::Of(model, page, of, std::min(queries, 64u)));
      line["agree_with_cpu"] = Rounded(agree, 5);
      if (agree < kAgreeMin) return absl::DataLossError(absl::StrCat("wrong: ", line.dump()));
      for (const bool alike : {false, true}) {
        if (alike && method != "rkv") continue;
        if (method == "rkv") line["keys"] = alike ? "alike" : "unlike";
        for (const uint32_t batch : options_.batches) {
          SelectCase spec{
              .shape = model.shape,
              .query_heads = model.query_heads,
              .format = page,
              .batch = batch,
              .live_max = *std::max_element(options_.budgets.begin(), options_.budgets.end()) +
                          *std::max_element(of.windows.begin(), of.windows.end()),
              .codebook_queries = queries,
              .alike = alike,
              .uneven = options_.uneven && queries > 0};
          if (spec.uneven) line["lanes"] = "uneven";
          KV_RETURN_IF_ERROR(Measure(spec, of, line));
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status Measure(const SelectCase& spec, const Method& method, const Json& line) {
    KV_ASSIGN_OR_RETURN(const auto bed, SelectBed::Make(spec));
    for (const uint32_t budget : options_.budgets) {
      for (const uint32_t window : method.windows) {
        KV_RETURN_IF_ERROR(MeasureWindow(spec, method.selection, budget, window, bed.get(), line));
      }
    }
    return absl::OkStatus();
  }

  absl::Status MeasureWindow(const SelectCase& spec, const Selection& selection, uint32_t budget,
                             uint32_t window, SelectBed* bed, Json line) {
    const uint32_t live = budget + window;
    if (spec.uneven) KV_RETURN_IF_ERROR(bed->Deal(live, budget));
    KV_ASSIGN_OR_RETURN(const double seconds,
                        MedianSeconds(
                            bed->stream(), options_.seconds, [&] { return bed->Revive(); },
                            [&] { return bed->Anneal(live, budget, selection); }));
    const double step_us = seconds * 1e6 / window;
    line["batch"] = spec.batch;
    line["budget"] = budget;
    line["window"] = window;
    line["us"] = Rounded(seconds * 1e6, 4);
    line["us_per_step"] = Rounded(step_us, 4);
    if (options_.step_us > 0) line["share_of_step"] = Rounded(step_us / options_.step_us, 3);
    const double group = spec.query_heads / spec.shape.kv_heads;
    const double operations =
        Operations(line["method"], live, spec.codebook_queries * group, spec.shape.head_dim) *
        spec.shape.lanes() * spec.batch;
    if (operations > 0 && !spec.alike) {
      const double tflops = operations / seconds / 1e12;
      line["tflops"] = Rounded(tflops, 4);
      line["share_of_tensor"] = Rounded(tflops / tensor_tflops_, 3);
    }
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
    return absl::OkStatus();
  }

  const Options& options_;
  const double tensor_tflops_;
};

absl::StatusOr<int> Run(const Options& options) {
  KV_ASSIGN_OR_RETURN(const cuda::Stream stream, cuda::NewStream());
  KV_ASSIGN_OR_RETURN(const Ceilings ceilings, MeasureCeilings(stream.get()));
  KV_ASSIGN_OR_RETURN(const double tensor_tflops, MeasureTensorCeiling(stream.get()));
  KV_ASSIGN_OR_RETURN(Json device, DeviceLine("select", ceilings));
  device["tensor_tflops"] = Rounded(tensor_tflops, 4);
  std::printf("%s\n", device.dump().c_str());
  KV_RETURN_IF_ERROR(Bench(options, tensor_tflops).Run());
  return 0;
}

}  // namespace
}  // namespace palimpsest::bench

int main(int argc, char** argv) {
  namespace flags = palimpsest::bench::flags;
  palimpsest::bench::Options options;
  CLI::App app("Anneals that choose tokens, on the GPU: time a call, TFLOP/s.");
  app.add_option("--shape", options.shapes, "of the model; several may be given")
      ->check(CLI::IsMember(options.shapes));
  app.add_option("--format", options.formats, "of K and V; several may be given")
      ->check(CLI::IsMember({"bf16", "nvfp4", "int4"}));
  app.add_option("--method", options.methods, "a way to choose; several may be given")
      ->check(CLI::IsMember(options.methods));
  app.add_option("--batch", options.batches, "sequences at once")->check(flags::KernelBatch());
  app.add_option("--budget", options.budgets, "tokens kept")->check(flags::Groups(16, 1 << 17));
  app.add_option("--queries", options.queries, "of a head, in the codebook of anticipate")
      ->check(flags::Groups(16, palimpsest::kCodebookQueriesMax));
  app.add_option("--window", options.windows, "tokens between two selections of anticipate")
      ->check(flags::Groups(16, 1 << 14));
  app.add_flag("--uneven", options.uneven,
               "lanes of anticipate have different shares, up to 12 to 1; as many tokens in all");
  app.add_option("--step-us", options.step_us,
                 "a decode step without selection at that batch (step_bench): what a selection's "
                 "share is of")
      ->check(CLI::Range(0.0, 1e9));
  app.add_option("--seconds", options.seconds, "time to spend on a case")->check(flags::Seconds());
  CLI11_PARSE(app, argc, argv);
  return palimpsest::bench::OnDevice("select_bench",
                                     [&] { return palimpsest::bench::Run(options); });
}
