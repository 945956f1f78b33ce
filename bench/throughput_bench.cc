// SPDX-License-Identifier: Apache-2.0
// Tokens a second of the whole engine on the GPU, policy by policy, in the steady state of long
// generations: at equal batches and at the largest that each policy fits. Random weights, simulated
// thoughts and pretended pasts (bench/fleet); every step that is timed is a real one. One JSON line
// a case, the device's before them.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/flags.h"
#include "bench/fleet/fleet_flags.h"
#include "bench/fleet/gpu_fleet.h"
#include "bench/fleet/stepping.h"
#include "bench/gpu/ceilings.h"
#include "bench/gpu/device_line.h"
#include "bench/gpu/energy.h"
#include "bench/gpu/on_device.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/device_memory.h"

namespace palimpsest::bench {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  GpuFleetOptions fleet;
  std::vector<std::string> policies;
  std::vector<uint32_t> batches = {8, 16, 64, 256, 0};  // 0: the largest
  uint32_t steps = 128;                                 // a window: every chain refreshes once
  double tflops = 800;
};

// What the step would take if only bytes and products counted.
double PaperSeconds(const GpuFleet& gpu, const FleetState& state, uint32_t batch,
                    const Options& options, const Ceilings& ceilings) {
  const double bytes_per_s = ceilings.copy_gbps * 1e9;
  const auto weights = static_cast<double>(gpu.read_weight_bytes);
  // Two operations a weight and row; a weight is two bytes.
  const double products_s = weights * batch / (options.tflops * 1e12);
  return std::max(weights / bytes_per_s, products_s) +
         static_cast<double>(state.live_bytes) / bytes_per_s;
}

constexpr uint32_t kWarmSteps = 16;

// Starts a fleet of `batch` chains, or, where that is 0, of as many as the pool holds.
absl::StatusOr<uint32_t> Start(const Options& options, const PolicySpec& policy, uint32_t batch,
                               GpuFleet& gpu) {
  FleetOptions fleet{.policy = policy,
                     .batch = batch,
                     .tokens = options.fleet.tokens,
                     .steps = options.steps + kWarmSteps};
  if (batch == 0) {
    KV_ASSIGN_OR_RETURN(fleet.batch, gpu.fleet->LargestBatch(fleet));
  }
  while (true) {
    absl::Status started = gpu.fleet->Start(fleet);
    if (started.ok()) return fleet.batch;
    const size_t held = gpu.fleet->running();
    KV_RETURN_IF_ERROR(gpu.fleet->Stop());
    // Promises can keep a pool's last pages from chains that have outgrown theirs.
    if (batch != 0 || !absl::IsResourceExhausted(started)) return started;
    fleet.batch = static_cast<uint32_t>(held * 97 / 100);
  }
}

absl::Status Measure(const Options& options, const Ceilings& ceilings, const PolicySpec& policy,
                     uint32_t wanted, EnergyMeter& energy, GpuFleet& gpu, Json* line) {
  const uint64_t reliefs_before = gpu.fleet->pressure_reliefs();
  KV_ASSIGN_OR_RETURN(const uint32_t batch, Start(options, policy, wanted, gpu));
  (*line)["batch"] = batch;
  KV_RETURN_IF_ERROR(TakeSteps(*gpu.fleet, kWarmSteps).status());
  const FleetState before = gpu.fleet->State();
  const std::optional<double> joules_before = energy.Joules();
  KV_ASSIGN_OR_RETURN(const StepTimes times, TakeSteps(*gpu.fleet, options.steps));
  const std::optional<double> joules = energy.Joules();
  const FleetState after = gpu.fleet->State();
  KV_RETURN_IF_ERROR(gpu.fleet->Stop());

  const double tokens = static_cast<double>(batch) * options.steps;
  (*line)["tokens_per_s"] = Rounded(tokens / times.total_s, 4);
  (*line)["step_ms"] = Rounded(times.total_s / options.steps * 1e3, 4);
  (*line)["step_ms_median"] = Rounded(times.median_s * 1e3, 4);
  (*line)["step_ms_p99"] = Rounded(times.p99_s * 1e3, 4);
  (*line)["paper_step_ms"] = Rounded(PaperSeconds(gpu, after, batch, options, ceilings) * 1e3, 4);
  (*line)["paper_bytes"] = {{"weights", gpu.read_weight_bytes}, {"live_kv", after.live_bytes}};
  (*line)["tokens_mean"] = Rounded(after.tokens_mean, 5);
  (*line)["live_tokens_mean"] = Rounded(after.live_tokens_mean, 5);
  (*line)["footprint_share"] =
      Rounded(static_cast<double>(after.used_byte_steps - before.used_byte_steps) /
                  static_cast<double>(after.full_byte_steps - before.full_byte_steps),
              4);
  (*line)["pool_used_gib"] = Rounded(static_cast<double>(after.pool_used_bytes) / (1 << 30), 4);
  if (joules.has_value() && joules_before.has_value()) {
    (*line)["joules_per_token"] = Rounded((*joules - *joules_before) / tokens, 3);
  }
  (*line)["pressure_reliefs"] = gpu.fleet->pressure_reliefs() - reliefs_before;
  return absl::OkStatus();
}

absl::StatusOr<int> Run(const Options& options) {
  KV_ASSIGN_OR_RETURN(const cuda::Stream stream, cuda::NewStream());
  KV_ASSIGN_OR_RETURN(const Ceilings ceilings, MeasureCeilings(stream.get()));
  KV_ASSIGN_OR_RETURN(GpuFleet gpu, NewGpuFleet(options.fleet));
  KV_ASSIGN_OR_RETURN(const auto policies, FleetPolicies(gpu.shape.layers, options.policies));
  KV_ASSIGN_OR_RETURN(Json device, DeviceLine("throughput", ceilings));
  device["model"] = "synthetic:" + options.fleet.shape;
  device["keys_rotated"] = options.fleet.rotate_keys;
  device["thoughts"] = "simulated: R 50 %, E 30 %, T 20 % of windows";
  device["tokens_a_chain"] = options.fleet.tokens;
  device["steps"] = options.steps;
  device["batch_max"] = options.fleet.batch_max;
  device["pool_gib"] = Rounded(static_cast<double>(gpu.pool_bytes) / (1 << 30), 4);
  device["weight_bytes_read"] = gpu.read_weight_bytes;
  device["paper_tflops"] = options.tflops;
  std::printf("%s\n", device.dump().c_str());
  const std::unique_ptr<EnergyMeter> energy = NewEnergyMeter();
  int failed = 0;
  for (const NamedPolicy& policy : policies) {
    for (const uint32_t batch : options.batches) {
      Json line = {{"bench", "throughput"}, {"policy", policy.name}};
      line["kind"] = batch == 0 ? "largest" : "equal";
      if (batch != 0) line["batch"] = batch;
      const absl::Status status =
          Measure(options, ceilings, policy.spec, batch, *energy, gpu, &line);
      if (!status.ok()) {
        const bool too_large = absl::IsResourceExhausted(status);
        line[too_large ? "skipped" : "failed"] = status.message();
        if (!too_large) ++failed;
      }
      std::printf("%s\n", line.dump().c_str());
      std::fflush(stdout);
      if (!status.ok() && !absl::IsResourceExhausted(status)) return 1;  // the engine is broken
    }
  }
  return failed == 0 ? 0 : 1;
}

constexpr char kFooter[] = R"(
"on paper": the longer of reading the weights at the copy ceiling and multiplying by them at
--tflops, plus reading the live keys and values at the copy ceiling.

Examples:
  throughput_bench
  throughput_bench --policy "full bf16" --policy "thinkv k=1024" --batch 16
)";

}  // namespace
}  // namespace palimpsest::bench

int main(int argc, char** argv) {
  namespace flags = palimpsest::bench::flags;
  palimpsest::bench::Options options;
  CLI::App app("Tokens a second of the engine on the GPU, RANDOM WEIGHTS, simulated thoughts.");
  app.footer(palimpsest::bench::kFooter);
  palimpsest::bench::AddFleetFlags(app, options.fleet, options.steps);
  app.add_option("--policy", options.policies, "only these; may be repeated");
  app.add_option("--batch", options.batches, "0: the largest that fits")
      ->check(flags::Whole(0, 8192))
      ->capture_default_str();
  app.add_option("--batch-max", options.fleet.batch_max, "the engine's")
      ->check(flags::Batch())
      ->capture_default_str();
  app.add_option("--tflops", options.tflops, "of large bf16 products")
      ->check(CLI::Range(1.0, 1e5))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return palimpsest::bench::OnDevice("throughput_bench",
                                     [&] { return palimpsest::bench::Run(options); });
}
