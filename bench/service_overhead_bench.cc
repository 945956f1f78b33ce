// SPDX-License-Identifier: Apache-2.0
// Does the service hold decoding back? The claim: tokens per second with a store, asynchronous, are
// at least 0.95 of those of the same engine with no store, on the same machine.
//
// Verifies first: in lockstep with a real store process, chains and plans equal those of the
// engine that plans by itself. Then measures pairs of runs (without, with), one after the other so
// that a slow minute of the machine hits both, and prints one JSON line with the median ratio.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/build_info.h"
#include "common/base/settings.h"
#include "common/base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "services/cli/child_process.h"
#include "services/cli/countdown.h"
#include "services/decode/engine/engine.h"
#include "services/decode/model/calibration_file.h"
#include "services/decode/model/cpu_model.h"
#include "services/decode/model/fingerprint.h"
#include "services/decode/model/tokenizer.h"
#include "services/decode/store_client/store_client.h"

namespace palimpsest {
namespace {

using std::chrono::steady_clock;

struct Options {
  std::string model = "lab/reasoner/model";
  std::string problems = "lab/reasoner/problems/short.jsonl";
  std::string kvstore = "build/release/bin/palimpsest-kvstore";
  uint32_t pairs = 5;
  uint32_t batch = 8;
  uint32_t tokens = 600;
  uint32_t budget = 256;
  uint32_t threads = 2;
};

struct Run {
  double tokens_per_second = 0;
  std::vector<std::vector<int32_t>> chains;
  uint64_t plan_hash = 0;
  uint32_t plans_store = 0;
  uint32_t plans_local = 0;
};

class Bench {
 public:
  explicit Bench(Options options)
      : options_(std::move(options)),
        team_(std::make_shared<TaskTeam>(static_cast<int>(options_.threads))) {}

  absl::Status Load() {
    KV_ASSIGN_OR_RETURN(
        model_,
        NewCpuModel(options_.model, {.rows_max = 512, .logit_rows_max = 64, .team = team_}));
    KV_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(options_.model));
    KV_ASSIGN_OR_RETURN(const auto problems, ReadProblems(options_.problems));
    KV_ASSIGN_OR_RETURN(PolicySpec policy, DefaultSpec("thinkv"));
    policy.budget_tokens = options_.budget;
    KV_ASSIGN_OR_RETURN(const std::string fingerprint, FingerprintModel(options_.model));
    const auto calibration =
        LoadCalibration(absl::StrCat(options_.model, "/calibration.json"), fingerprint);
    if (calibration.ok()) {
      policy.sparsity_layers = calibration->calibration.sparsity_layers;
      policy.theta = calibration->calibration.theta;
    }
    for (uint32_t i = 0; i < options_.batch; ++i) {
      GenerateRequest request;
      KV_ASSIGN_OR_RETURN(request.prompt,
                          tokenizer->Encode(problems[i % problems.size()].prompt, false));
      request.max_new_tokens = options_.tokens;  // no stop tokens: equal work in every run
      request.policy = policy;
      requests_.push_back(std::move(request));
    }
    KV_ASSIGN_OR_RETURN(
        store_, cli::ChildProcess::Start(options_.kvstore, {"--listen", "127.0.0.1:0",
                                                            "--metrics-listen", "127.0.0.1:0"}));
    for (int wait = 0; wait < 500 && endpoint_.empty(); ++wait) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      endpoint_ = store_->FindLine("listening on ").value_or("");
    }
    if (endpoint_.empty()) return absl::UnavailableError("the store did not come up");
    return absl::OkStatus();
  }

  absl::StatusOr<Run> Measure(bool with_store, bool lockstep) {
    std::unique_ptr<ControlPlane> control;
    if (with_store) {
      control = NewStoreClient({.endpoint = endpoint_, .worker_name = "bench"});
      for (int wait = 0; wait < 500 && control->state() != StoreState::kConnected; ++wait) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      if (control->state() != StoreState::kConnected) {
        return absl::UnavailableError("no connection to the store");
      }
    }
    const CacheShape shape = model_->config().cache_shape();
    KV_ASSIGN_OR_RETURN(PagePool pool, PagePool::Create({.shape = shape, .pool_bytes = 256 << 20}));
    KV_ASSIGN_OR_RETURN(auto backend,
                        NewCpuBackend({.shape = shape,
                                       .query_heads = model_->config().query_heads,
                                       .pool_bytes = pool.capacity_bytes(),
                                       .open_groups = options_.batch,
                                       .rows_max = static_cast<uint32_t>(model_->rows_max())},
                                      team_));
    const auto timed = NewTimedBackend(std::move(backend), clock_.get());
    Engine engine({.batch_max = options_.batch, .lockstep = lockstep}, model_.get(), timed.get(),
                  std::move(pool), control.get(), clock_.get(), nullptr);
    Run run;
    run.chains.resize(options_.batch);
    const auto start = steady_clock::now();
    const auto admissions = engine.Submit(requests_, [&](GenerateEvent event) {
      auto& chain = run.chains[event.request - 1];
      chain.insert(chain.end(), event.tokens.begin(), event.tokens.end());
      if (!event.finished.has_value()) return;
      run.plan_hash = run.plan_hash * 31 + event.stats->plan_hash;
      run.plans_local += event.stats->plans_local;
      run.plans_store += event.stats->plans_applied - event.stats->plans_local;
    });
    for (const Admission& admission : admissions) KV_RETURN_IF_ERROR(admission.status);
    while (true) {
      KV_ASSIGN_OR_RETURN(const bool worked, engine.Step());
      if (!worked) break;
    }
    const double seconds = std::chrono::duration<double>(steady_clock::now() - start).count();
    run.tokens_per_second = options_.batch * options_.tokens / seconds;
    return run;
  }

  absl::Status Verify() {
    KV_ASSIGN_OR_RETURN(const Run alone, Measure(false, false));
    KV_ASSIGN_OR_RETURN(const Run lockstep, Measure(true, true));
    if (alone.chains != lockstep.chains || alone.plan_hash != lockstep.plan_hash) {
      return absl::InternalError("lockstep chains or plans differ from the engine's own");
    }
    if (lockstep.plans_store == 0) return absl::InternalError("the store sent no plan");
    return absl::OkStatus();
  }

  absl::Status Report() {
    std::vector<double> ratios, without, with;
    uint32_t plans_store = 0, plans_local = 0;
    for (uint32_t i = 0; i < options_.pairs; ++i) {
      // Alternate which one goes first.
      const bool store_first = i % 2 == 1;
      KV_ASSIGN_OR_RETURN(Run first, Measure(store_first, false));
      KV_ASSIGN_OR_RETURN(Run second, Measure(!store_first, false));
      if (store_first) std::swap(first, second);
      without.push_back(first.tokens_per_second);
      with.push_back(second.tokens_per_second);
      ratios.push_back(second.tokens_per_second / first.tokens_per_second);
      plans_store += second.plans_store;
      plans_local += second.plans_local;
      std::fprintf(stderr, "pair %u of %u: %.0f tokens/s without a store, %.0f with one\n", i + 1,
                   options_.pairs, without.back(), with.back());
    }
    std::printf(
        "{\"bench\":\"service_overhead\",\"verified\":true,\"commit\":\"%s\",\"device\":\"cpu\","
        "\"threads\":%u,\"batch\":%u,\"tokens_per_chain\":%u,\"budget_tokens\":%u,"
        "\"pairs\":%u,\"tokens_per_second_without_store_median\":%.1f,"
        "\"tokens_per_second_with_store_median\":%.1f,\"ratio_median\":%.4f,\"ratio_min\":%.4f,"
        "\"ratio_max\":%.4f,\"plans_from_store\":%u,\"plans_local\":%u}\n",
        std::string(BuildCommit()).c_str(), options_.threads, options_.batch, options_.tokens,
        options_.budget, options_.pairs, Median(without), Median(with), Median(ratios),
        *std::min_element(ratios.begin(), ratios.end()),
        *std::max_element(ratios.begin(), ratios.end()), plans_store, plans_local);
    return absl::OkStatus();
  }

 private:
  static double Median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const size_t n = values.size();
    return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
  }

  const Options options_;
  const std::shared_ptr<TaskTeam> team_;
  std::unique_ptr<Clock> clock_ = NewSteadyClock();
  std::unique_ptr<Model> model_;
  std::vector<GenerateRequest> requests_;
  std::unique_ptr<cli::ChildProcess> store_;
  std::string endpoint_;
};

int Main(int argc, char** argv) {
  Options options;
  SettingsTable table("service_overhead_bench",
                      "Decoding with a store against decoding without one, paired.");
  table.Text("model", &options.model, "Hugging Face folder.");
  table.Text("problems", &options.problems, "Problems whose prompts are used.");
  table.Text("kvstore", &options.kvstore, "The store's binary.");
  table.Integer("pairs", &options.pairs, {1, 100}, "Pairs of runs.");
  table.Integer("batch", &options.batch, {1, 64}, "Chains at once.");
  table.Integer("tokens", &options.tokens, {16, 16000}, "Tokens generated per chain.");
  table.Integer("budget", &options.budget, {16, 16384}, "ThinKV's budget k.");
  table.Integer("threads", &options.threads, {1, 64}, "Threads of the engine.");
  if (const std::optional<int> code = LoadSettings(argc, argv, &table)) return *code;
  Bench bench(options);
  absl::Status status = bench.Load();
  if (status.ok()) status = bench.Verify();
  if (status.ok()) status = bench.Report();
  if (status.ok()) return 0;
  std::fprintf(stderr, "service_overhead_bench: %s\n", status.ToString().c_str());
  return 1;
}

}  // namespace
}  // namespace palimpsest

int main(int argc, char** argv) { return palimpsest::Main(argc, argv); }
