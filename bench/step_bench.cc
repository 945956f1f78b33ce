// SPDX-License-Identifier: Apache-2.0
// One decode step of the engine on the GPU taken apart: how long the device works for weights,
// attention, appending, quantising, sparsity, annealing, sampling and the rest, how long it idles,
// and what the step's bytes alone would take. Random weights, simulated thoughts and pretended
// pasts (bench/fleet). One JSON line a case, the device's before them.
//
// A step's time is the wall clock's, over many steps without any recording; its parts are CUPTI's
// records of as many steps after those, and idle is what the parts leave of the step.
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
#include "bench/gpu/kernel_times.h"
#include "bench/gpu/on_device.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/device_memory.h"

namespace palimpsest::bench {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  GpuFleetOptions fleet = {.batch_max = 256};
  std::vector<std::string> policies = {"thinkv k=1024", "full bf16"};
  std::vector<uint32_t> batches = {1, 8, 64, 256};
  uint32_t steps = 128;  // a window: every chain refreshes once
};

// Chains of mixed ages where the pool holds them, else the oldest equal age at which it does.
FleetOptions FleetFor(const Options& options, const PolicySpec& policy, uint32_t batch,
                      const GpuFleet& gpu) {
  FleetOptions fleet{.policy = policy,
                     .batch = batch,
                     .tokens = options.fleet.tokens,
                     .steps = 2 * options.steps + 32};
  if (policy.name != "full") return fleet;
  const PageLayout layout = MakePageLayout(gpu.shape, policy.formats.of(Thought::kReasoning));
  const uint64_t slots = gpu.pool_bytes / layout.page_bytes * kSlotsPerPage;
  const uint64_t each = slots * 95 / 100 / batch;  // the tails of frames are lost
  if (each < fleet.tokens / 2 + 2 * fleet.steps) {
    fleet.age = static_cast<uint32_t>(each) - 2 * fleet.steps;
  }
  return fleet;
}

absl::Status Measure(const Options& options, const Ceilings& ceilings, const FleetOptions& fleet,
                     KernelTimes& recorder, GpuFleet& gpu, Json* line) {
  absl::Status started = gpu.fleet->Start(fleet);
  if (!started.ok()) {
    KV_RETURN_IF_ERROR(gpu.fleet->Stop());
    return started;
  }
  KV_RETURN_IF_ERROR(TakeSteps(*gpu.fleet, 16).status());
  KV_ASSIGN_OR_RETURN(const StepTimes times, TakeSteps(*gpu.fleet, options.steps));
  const FleetState state = gpu.fleet->State();
  KV_RETURN_IF_ERROR(recorder.Start());
  KV_RETURN_IF_ERROR(TakeSteps(*gpu.fleet, options.steps).status());
  KV_RETURN_IF_ERROR(cuda::ToStatus(cudaStreamSynchronize(gpu.stream), "the last step"));
  KV_ASSIGN_OR_RETURN(const DeviceTimes device, recorder.Stop());
  KV_RETURN_IF_ERROR(gpu.fleet->Stop());

  const double step_ms = times.total_s / options.steps * 1e3;
  const double bytes = static_cast<double>(gpu.read_weight_bytes + state.live_bytes);
  (*line)["tokens_mean"] = Rounded(state.tokens_mean, 5);
  (*line)["live_tokens_mean"] = Rounded(state.live_tokens_mean, 5);
  (*line)["step_ms"] = Rounded(step_ms, 4);
  (*line)["step_ms_median"] = Rounded(times.median_s * 1e3, 4);
  (*line)["roofline_ms"] = Rounded(bytes / ceilings.copy_gbps / 1e6, 4);
  (*line)["roofline_bytes"] = {{"weights", gpu.read_weight_bytes}, {"live_kv", state.live_bytes}};
  Json parts;
  for (const char* family :
       {"weights", "attention", "append", "quantise", "sparsity", "anneal", "sampling", "other"}) {
    const auto found = device.seconds.find(family);
    const double seconds = found == device.seconds.end() ? 0.0 : found->second;
    parts[family] = Rounded(seconds / options.steps * 1e3, 4);
  }
  parts["idle"] = Rounded(step_ms - device.busy_seconds() / options.steps * 1e3, 3);
  (*line)["ms"] = parts;
  Json idle;
  for (const auto& [family, seconds] : device.idle_before) {
    idle[family] = Rounded(seconds / options.steps * 1e3, 3);
  }
  (*line)["recorded_idle_ms_before"] = idle;
  (*line)["launches_a_step"] = device.records / options.steps;
  return absl::OkStatus();
}

absl::StatusOr<int> Run(const Options& options) {
  KV_ASSIGN_OR_RETURN(const std::unique_ptr<KernelTimes> recorder, NewKernelTimes());
  KV_ASSIGN_OR_RETURN(const cuda::Stream stream, cuda::NewStream());
  KV_ASSIGN_OR_RETURN(const Ceilings ceilings, MeasureCeilings(stream.get()));
  KV_ASSIGN_OR_RETURN(GpuFleet gpu, NewGpuFleet(options.fleet));
  KV_ASSIGN_OR_RETURN(const auto policies, FleetPolicies(gpu.shape.layers, options.policies));
  KV_ASSIGN_OR_RETURN(Json device, DeviceLine("step", ceilings));
  device["model"] = "synthetic:" + options.fleet.shape;
  device["keys_rotated"] = options.fleet.rotate_keys;
  device["thoughts"] = "simulated: R 50 %, E 30 %, T 20 % of windows";
  device["steps"] = options.steps;
  std::printf("%s\n", device.dump().c_str());
  for (const NamedPolicy& policy : policies) {
    for (const uint32_t batch : options.batches) {
      const FleetOptions fleet = FleetFor(options, policy.spec, batch, gpu);
      Json line = {{"bench", "step"}, {"policy", policy.name}, {"batch", batch}};
      const absl::Status status = Measure(options, ceilings, fleet, *recorder, gpu, &line);
      if (!status.ok()) {
        line[absl::IsResourceExhausted(status) ? "skipped" : "failed"] = status.message();
      }
      std::printf("%s\n", line.dump().c_str());
      std::fflush(stdout);
      if (!status.ok() && !absl::IsResourceExhausted(status)) return 1;  // the engine is broken
    }
  }
  return 0;
}

constexpr char kFooter[] = R"(
Roofline: the weights' bytes and those of the live keys and values, at the copy ceiling.

Examples:
  step_bench
  step_bench --policy "thinkv k=1024" --batch 64
)";

}  // namespace
}  // namespace palimpsest::bench

int main(int argc, char** argv) {
  namespace flags = palimpsest::bench::flags;
  palimpsest::bench::Options options;
  CLI::App app("A decode step on the GPU taken apart, RANDOM WEIGHTS, simulated thoughts.");
  app.footer(palimpsest::bench::kFooter);
  palimpsest::bench::AddFleetFlags(app, options.fleet, options.steps);
  app.add_option("--policy", options.policies, "may be repeated")->capture_default_str();
  app.add_option("--batch", options.batches, "may be repeated")
      ->check(flags::Batch())
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  for (const uint32_t batch : options.batches) {
    options.fleet.batch_max = std::max(options.fleet.batch_max, batch);
  }
  return palimpsest::bench::OnDevice("step_bench", [&] { return palimpsest::bench::Run(options); });
}
