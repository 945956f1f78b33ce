// SPDX-License-Identifier: Apache-2.0
// Runs a policy in the engine, on the CPU backend, and writes to a file what it saw and which
// tokens survived each step. lab/fidelity reads the file (recording.py) and judges.
//
//   record_survivors POLICY SOURCE FILE     (from the root of the tree)
//
// SOURCE: `random` (random_model.h) or `reasoner`, both with all pages in bf16; or `quantised`:
// random, in the formats that the policy starts from, or nvfp4 where that is bf16; or `uneven`:
// quantised, with a codebook whose lanes have different shares.
//
// FILE: a line of JSON, then the arrays that it lists, one after the other, little-endian.
#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/clock.h"
#include "common/base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "nlohmann/json.hpp"
#include "services/decode/engine/engine.h"
#include "services/decode/model/cpu_model.h"
#include "services/decode/model/fingerprint.h"
#include "services/decode/model/query_codebook_file.h"
#include "services/decode/model/rope.h"
#include "services/decode/model/tokenizer.h"
#include "services/decode/served_policies.h"
#include "tests/fidelity/random_model.h"
#include "tests/fidelity/recording_backend.h"

namespace palimpsest {
namespace {

constexpr uint32_t kGenerated = 1000;
constexpr char kReasoner[] = "lab/reasoner/model";
constexpr char kProblem[] = "<bos> goal 83 [ 26 21 19 11 3 ]";

// What generates, and what it starts from.
struct Source {
  std::unique_ptr<Model> model = nullptr;
  std::vector<int32_t> prompt = {};
  std::shared_ptr<const QueryCodebook> codebook = nullptr;
  std::vector<uint32_t> sparsity_layers = {};
  std::vector<float> theta = {};  // such that all kinds of thoughts come up
};

// Of the random model's lanes. One is so large that its newest tokens are more than the least, and
// two are equal, so that which of them ranks first is seen.
constexpr float kShares[] = {1.9f, 0.3f, 0.9f, 0.6f, 0.6f, 1.7f};

absl::StatusOr<Source> RandomSource(bool uneven) {
  ModelConfig config;
  config.layers = 3;
  config.query_heads = 4;
  config.kv_heads = 2;
  config.head_dim = 32;
  config.vocab_size = 2;
  config.max_positions = 4096;
  auto model = std::make_unique<RandomModel>(config, /*seed=*/1);
  QueryCodebook codebook = model->Codebook(32);
  if (uneven) codebook.lane_shares.assign(std::begin(kShares), std::end(kShares));
  Source source{.prompt = std::vector<int32_t>(21, 1),  // ends inside a group
                .codebook = std::make_shared<const QueryCodebook>(std::move(codebook)),
                .sparsity_layers = {0, 2},
                .theta = {0.3f, 0.6f}};
  source.model = std::move(model);
  return source;
}

absl::StatusOr<Source> ReasonerSource() {
  Source source{.sparsity_layers = {2, 5}, .theta = {0.74f, 0.82f}};
  KV_ASSIGN_OR_RETURN(source.model, NewCpuModel(kReasoner, {.rows_max = 16, .logit_rows_max = 1}));
  KV_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(kReasoner));
  KV_ASSIGN_OR_RETURN(source.prompt, tokenizer->Encode(kProblem, /*add_special=*/false));
  KV_ASSIGN_OR_RETURN(const std::string fingerprint, FingerprintModel(kReasoner));
  KV_ASSIGN_OR_RETURN(QueryCodebookFile file,
                      LoadQueryCodebook(absl::StrCat(kReasoner, "/", kQueryCodebookFileName),
                                        source.model->config(), fingerprint));
  source.codebook = std::make_shared<const QueryCodebook>(std::move(file.codebook));
  return source;
}

// Small, so that much is evicted.
absl::StatusOr<PolicySpec> SmallSpec(const std::string& policy, const Source& source,
                                     bool quantised) {
  constexpr ClassFormats kBf16 = ClassFormats::Uniform({Format::kBf16, Format::kBf16});
  constexpr ClassFormats kNvfp4 = ClassFormats::Uniform({Format::kNvfp4, Format::kNvfp4});
  KV_ASSIGN_OR_RETURN(PolicySpec spec, DefaultSpec(policy));
  spec.budget_tokens = 96;
  if (!quantised) spec.formats = kBf16;
  if (quantised && spec.formats == kBf16) spec.formats = kNvfp4;
  if (policy == "thinkv") {
    spec.window_tokens = 64;
    spec.retention = {32, 16, 8, 4};
    spec.sparsity_layers = source.sparsity_layers;
    spec.theta = source.theta;
  }
  return spec;
}

absl::Status Generate(Engine& engine, GenerateRequest request) {
  absl::Status failed;
  const auto admissions = engine.Submit(
      {std::move(request)}, [&](const GenerateEvent& event) { failed.Update(event.error); });
  KV_RETURN_IF_ERROR(admissions[0].status);
  for (bool worked = true; worked;) {
    KV_ASSIGN_OR_RETURN(worked, engine.Step());
  }
  return failed;
}

class Writer {
 public:
  template <typename T>
  void Add(const std::string& name, const char* type, const std::vector<T>& values) {
    arrays_.push_back({{"name", name}, {"type", type}, {"count", values.size()}});
    const auto* bytes = reinterpret_cast<const char*>(values.data());
    bytes_.append(bytes, values.size() * sizeof(T));
  }
  bool Write(const std::string& path, nlohmann::json header) const {
    header["arrays"] = arrays_;
    std::ofstream file(path, std::ios::binary);
    file << header.dump() << '\n' << bytes_;
    return file.flush().good();
  }

 private:
  nlohmann::json arrays_ = nlohmann::json::array();
  std::string bytes_;
};

bool Write(const std::string& path, const std::string& name, const PolicySpec& spec,
           const Source& source, const Recording& recording) {
  const ModelConfig& config = source.model->config();
  Writer writer;
  writer.Add("step_tokens", "<u4", recording.step_tokens);
  writer.Add("q", "bf16", recording.q);
  writer.Add("k", "bf16", recording.k);
  writer.Add("v", "bf16", recording.v);
  writer.Add("stored_k", "bf16", recording.stored_k);
  writer.Add("stored_v", "bf16", recording.stored_v);
  writer.Add("live", "u1", recording.live);
  writer.Add("sparsity", "<f4", recording.sparsity);
  writer.Add("inverse_frequencies", "<f4", InverseFrequencies(config.rope, config.head_dim));
  writer.Add("codebook", "bf16", source.codebook->data);
  writer.Add("lane_shares", "<f4", source.codebook->lane_shares);
  return writer.Write(path, {{"policy", spec.name},
                             {"source", name},
                             {"budget_tokens", spec.budget_tokens},
                             {"window_tokens", WindowTokensOf(spec)},
                             {"retention", spec.retention},
                             {"sparsity_layers", spec.sparsity_layers},
                             {"theta", spec.theta},
                             {"prompt_tokens", source.prompt.size()},
                             {"positions_max", recording.positions_max},
                             {"layers", config.layers},
                             {"query_heads", config.query_heads},
                             {"kv_heads", config.kv_heads},
                             {"head_dim", config.head_dim}});
}

absl::Status Record(const std::string& policy, const std::string& name, const std::string& path) {
  const bool uneven = name == "uneven";
  KV_ASSIGN_OR_RETURN(const Source source,
                      name == "reasoner" ? ReasonerSource() : RandomSource(uneven));
  KV_ASSIGN_OR_RETURN(const PolicySpec spec,
                      SmallSpec(policy, source, uneven || name == "quantised"));
  KV_ASSIGN_OR_RETURN(const ServedPolicies wants, ServePolicies({policy}, /*has_codebook=*/true));
  CacheShape shape = source.model->config().cache_shape();
  shape.slot_scores = wants.slot_scores;
  shape.residue = wants.residue;
  KV_ASSIGN_OR_RETURN(PagePool pool, PagePool::Create({.shape = shape, .pool_bytes = 64 << 20}));
  const BackendConfig config{.shape = shape,
                             .query_heads = source.model->config().query_heads,
                             .pool_bytes = pool.capacity_bytes(),
                             .open_groups = 1,
                             .rows_max = 16,
                             .query_window = wants.query_window,
                             .codebook = source.codebook};
  KV_ASSIGN_OR_RETURN(std::unique_ptr<Backend> cpu, NewCpuBackend(config, /*threads=*/1));
  const auto tokens = static_cast<uint32_t>(source.prompt.size()) + kGenerated;
  auto recorder = std::make_unique<RecordingBackend>(std::move(cpu), config, (tokens + 7) / 8 * 8);
  const Recording& recording = recorder->recording();
  const std::unique_ptr<Clock> clock = NewSteadyClock();
  const auto backend = NewTimedBackend(std::move(recorder), clock.get());
  Engine engine({.batch_max = 1, .lane_shares = source.codebook->lane_shares}, source.model.get(),
                backend.get(), std::move(pool), nullptr, clock.get(), nullptr);
  KV_RETURN_IF_ERROR(Generate(engine, {.prompt = source.prompt,
                                       .max_new_tokens = kGenerated,
                                       .stop_tokens = {},
                                       .sampling = {},
                                       .policy = spec}));
  if (!Write(path, name, spec, source, recording)) {
    return absl::InternalError(absl::StrCat("cannot write ", path));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace palimpsest

int main(int argc, char** argv) {
  const std::string source = argc == 4 ? argv[2] : "";
  constexpr absl::string_view kSources[] = {"random", "quantised", "reasoner", "uneven"};
  if (std::find(std::begin(kSources), std::end(kSources), source) == std::end(kSources)) {
    std::cerr << "usage: record_survivors POLICY random|quantised|reasoner|uneven FILE\n";
    return 2;
  }
  const absl::Status status = palimpsest::Record(argv[1], source, argv[3]);
  if (status.ok()) return 0;
  std::cerr << "record_survivors: " << status << '\n';
  return 1;
}
