// SPDX-License-Identifier: Apache-2.0
// What a decode step costs the host, while a GPU would wait for it: the real engine with all its
// bookkeeping over chains of mixed ages (bench/fleet), and of a device's backend and model what
// they do on the host, without launches and copies (fleet/host_device.h). One JSON line a case.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/flags.h"
#include "bench/fleet/fleet.h"
#include "bench/fleet/host_device.h"
#include "bench/fleet/policies.h"
#include "bench/fleet/uneven_chains.h"
#include "bench/random_shares.h"
#include "common/base/status_macros.h"
#include "services/decode/model/known_shapes.h"

namespace palimpsest::bench {
namespace {

struct Options {
  std::string shape = "llama-3-8b";
  std::vector<std::string> policies = {"thinkv k=1024"};
  std::vector<uint32_t> batches = {64, 256, 925};
  uint32_t tokens = 32768;  // a chain's
  uint32_t steps = 512;
  uint64_t pool_bytes = uint64_t{56} << 30;  // what an 8B model leaves of 80 GB; none is allocated
  uint32_t uneven_budget = 0;                // not 0: the steps of uneven sequences alone
};

double Microseconds(double seconds) { return std::round(seconds * 1e7) / 10; }

absl::StatusOr<nlohmann::ordered_json> Measure(const Options& options, const NamedPolicy& policy,
                                               uint32_t batch) {
  KV_ASSIGN_OR_RETURN(ModelConfig config, KnownShape(options.shape));
  config.max_positions = std::max(config.max_positions, static_cast<int>(options.tokens) + 1024);
  const CacheShape shape = config.cache_shape();
  KV_ASSIGN_OR_RETURN(PagePool pool,
                      PagePool::Create({.shape = shape, .pool_bytes = options.pool_bytes}));
  auto backend = std::make_unique<HostBackend>(BackendConfig{.shape = shape,
                                                             .query_heads = config.query_heads,
                                                             .pool_bytes = pool.capacity_bytes(),
                                                             .open_groups = batch,
                                                             .rows_max = batch});
  HostBackend* const host = backend.get();
  HostModel model(config, batch);
  Fleet fleet(&model, std::move(backend), std::move(pool), batch,
              [](const PretendBackend&) { return absl::OkStatus(); });
  KV_RETURN_IF_ERROR(fleet.Start({.policy = policy.spec,
                                  .batch = batch,
                                  .tokens = options.tokens,
                                  .steps = options.steps + 64}));
  for (int i = 0; i < 16; ++i) KV_RETURN_IF_ERROR(fleet.Step());
  host->TakeSeconds();
  std::vector<double> steps(options.steps);
  for (double& seconds : steps) {
    const double begin = CpuSeconds();
    KV_RETURN_IF_ERROR(fleet.Step());
    seconds = CpuSeconds() - begin;
  }
  const HostSeconds inside = host->TakeSeconds();
  KV_RETURN_IF_ERROR(fleet.Stop());
  const double mean = std::accumulate(steps.begin(), steps.end(), 0.0) / options.steps;
  std::sort(steps.begin(), steps.end());
  return nlohmann::ordered_json{{"bench", "host_step"},
                                {"policy", policy.name},
                                {"batch", batch},
                                {"step_us", Microseconds(mean)},
                                {"step_us_median", Microseconds(steps[steps.size() / 2])},
                                {"step_us_p99", Microseconds(steps[steps.size() * 99 / 100])},
                                {"us",
                                 {{"begin_step", Microseconds(inside.begin_step / options.steps)},
                                  {"seal", Microseconds(inside.seal / options.steps)},
                                  {"anneal", Microseconds(inside.anneal / options.steps)}}}};
}

// BeginStep alone, of chains whose lanes share a budget unequally.
absl::StatusOr<nlohmann::ordered_json> MeasureUneven(const Options& options, uint32_t batch) {
  KV_ASSIGN_OR_RETURN(const ModelConfig config, KnownShape(options.shape));
  const CacheShape shape = config.cache_shape();
  auto book = std::make_shared<QueryCodebook>();
  book->lane_shares = RandomShares(static_cast<uint32_t>(shape.lanes()));
  const BackendConfig backend{.shape = shape,
                              .query_heads = config.query_heads,
                              .pool_bytes = options.pool_bytes,
                              .open_groups = batch,
                              .rows_max = batch * kGroupTokens,
                              .codebook = book};
  const PoolLayout layout(backend);
  HostBackend host(backend);
  UnevenChains chains({.shares = book->lane_shares,
                       .ranks = layout.lane_ranks(),
                       .budget = options.uneven_budget,
                       .tokens = options.tokens,
                       .batch = batch,
                       .page_bytes = layout.page({Format::kInt4, Format::kInt4}).page_bytes});
  chains.Next();
  KV_RETURN_IF_ERROR(host.BeginStep(chains.views(), chains.rows()));
  const double all_layers = host.TakeSeconds().begin_step;
  const uint64_t planned = host.layers_planned();
  std::vector<double> steps(options.steps);
  for (double& seconds : steps) {
    chains.Next();
    KV_RETURN_IF_ERROR(host.BeginStep(chains.views(), chains.rows()));
    seconds = host.TakeSeconds().begin_step;
  }
  const double mean = std::accumulate(steps.begin(), steps.end(), 0.0) / options.steps;
  std::sort(steps.begin(), steps.end());
  return nlohmann::ordered_json{
      {"bench", "host_step"},
      {"policy", absl::StrCat("uneven k=", options.uneven_budget)},
      {"batch", batch},
      {"tokens", options.tokens},
      {"layers_planned", static_cast<double>(host.layers_planned() - planned) / options.steps},
      {"us",
       {{"begin_step", Microseconds(mean)},
        {"begin_step_median", Microseconds(steps[steps.size() / 2])},
        {"begin_step_p99", Microseconds(steps[steps.size() * 99 / 100])},
        {"all_layers", Microseconds(all_layers)}}}};
}

absl::Status Run(const Options& options) {
  if (options.uneven_budget > 0) {
    for (const uint32_t batch : options.batches) {
      KV_ASSIGN_OR_RETURN(const auto line, MeasureUneven(options, batch));
      std::printf("%s\n", line.dump().c_str());
    }
    return absl::OkStatus();
  }

  KV_ASSIGN_OR_RETURN(const ModelConfig config, KnownShape(options.shape));
  KV_ASSIGN_OR_RETURN(const auto policies, FleetPolicies(config.layers, options.policies));
  for (const NamedPolicy& policy : policies) {
    for (const uint32_t batch : options.batches) {
      KV_ASSIGN_OR_RETURN(const auto line, Measure(options, policy, batch));
      std::printf("%s\n", line.dump().c_str());
      std::fflush(stdout);
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace palimpsest::bench

int main(int argc, char** argv) {
  namespace flags = palimpsest::bench::flags;
  palimpsest::bench::Options options;
  CLI::App app("The host's share of a decode step: no GPU wanted, none used.");
  app.footer(
      "\nExamples:\n  host_step_bench\n  host_step_bench --policy \"full fp8\" --batch 64\n");
  app.add_option("--shape", options.shape, "the model")->capture_default_str();
  app.add_option("--policy", options.policies, "may be repeated")->capture_default_str();
  app.add_option("--batch", options.batches, "may be repeated")
      ->check(flags::Batch())
      ->capture_default_str();
  app.add_option("--tokens", options.tokens, "a chain's")
      ->check(flags::ChainTokens())
      ->capture_default_str();
  app.add_option("--steps", options.steps, "timed steps a case")
      ->check(flags::Steps())
      ->capture_default_str();
  app.add_option("--uneven", options.uneven_budget,
                 "in place of policies: what BeginStep costs where lanes share a budget of so many "
                 "tokens each unequally")
      ->check(flags::Whole(64, 1 << 16));
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = palimpsest::bench::Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "host_step_bench: %s\n", status.ToString().c_str());
  return 1;
}
