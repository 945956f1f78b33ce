// SPDX-License-Identifier: Apache-2.0
#include "services/decode/device/device.h"

#include <unistd.h>

#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "kernels/cpu/cpu_backend.h"
#include "services/decode/device/cuda_device.h"
#include "services/decode/model/cpu_model.h"
#include "services/decode/model/known_shapes.h"

namespace palimpsest {
namespace {

constexpr uint64_t kSeed = 1;  // of synthetic weights

// A model that does not fit would not be refused but killed, after minutes.
absl::Status CheckMemory(const ModelSource& source) {
  const uint64_t memory =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t weights = sizeof(float) * ParameterCount(source.config);
  if (weights < memory) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("synthetic_weights: ", source.synthetic, " takes ", weights >> 30,
                   " GiB on the CPU, where weights are fp32; this machine has ", memory >> 30,
                   " GiB. Allowed: a smaller shape, or --device cuda"));
}

absl::StatusOr<Device> NewCpuDevice(const DeviceOptions& options) {
  if (options.source.is_synthetic()) KV_RETURN_IF_ERROR(CheckMemory(options.source));
  const auto team = std::make_shared<TaskTeam>(options.threads);
  const CpuModelOptions model_options{
      .rows_max = options.rows_max, .logit_rows_max = options.logit_rows_max, .team = team};
  Device device{.name = "cpu"};
  KV_ASSIGN_OR_RETURN(device.backend, NewCpuBackend(BackendConfigOf(options), team));
  if (options.source.is_synthetic()) {
    KV_ASSIGN_OR_RETURN(device.model,
                        NewSyntheticCpuModel(options.source.config, kSeed, model_options));
  } else {
    KV_ASSIGN_OR_RETURN(device.model, NewCpuModel(options.source.folder, model_options));
  }
  device.read_activations = [](const void* from, absl::Span<uint8_t> out) {
    std::memcpy(out.data(), from, out.size());
    return absl::OkStatus();
  };
  return device;
}

}  // namespace

absl::StatusOr<DeviceChoice> ParseDeviceChoice(absl::string_view text) {
  if (text == "auto") return DeviceChoice{};
  if (text == "cpu") return DeviceChoice{.kind = DeviceKind::kCpu};
  DeviceChoice choice{.kind = DeviceKind::kCuda};
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, "cuda")) {
    if (rest.empty()) return choice;
    constexpr int kDevicesMax = 1024;
    if (absl::ConsumePrefix(&rest, ":") && absl::SimpleAtoi(rest, &choice.index) &&
        choice.index >= 0 && choice.index < kDevicesMax) {
      return choice;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text), " is no device; allowed: auto, cpu, cuda, cuda:N"));
}

std::string FormatDeviceChoice(const DeviceChoice& choice) {
  switch (choice.kind) {
    case DeviceKind::kAuto:
      return "auto";
    case DeviceKind::kCpu:
      return "cpu";
    case DeviceKind::kCuda:
      return choice.index == 0 ? "cuda" : absl::StrCat("cuda:", choice.index);
  }
  return "";
}

absl::StatusOr<ModelSource> FindModel(const std::string& folder, const std::string& synthetic) {
  if (folder.empty() == synthetic.empty()) {
    return absl::InvalidArgumentError(
        "model: required, a folder with config.json, as in --model lab/reasoner/model; or else "
        "--synthetic-weights, never both");
  }
  ModelSource source{.folder = folder, .synthetic = synthetic};
  if (source.is_synthetic()) {
    KV_ASSIGN_OR_RETURN(source.config, KnownShape(synthetic));
  } else {
    KV_ASSIGN_OR_RETURN(source.config, LoadModelConfig(folder));
  }
  return source;
}

BackendConfig BackendConfigOf(const DeviceOptions& options) {
  CacheShape shape = options.source.config.cache_shape();
  shape.slot_scores = options.slot_scores;
  shape.residue = options.residue;
  return {.shape = shape,
          .query_heads = options.source.config.query_heads,
          .pool_bytes = options.pool_bytes,
          .open_groups = options.open_groups,
          .rows_max = static_cast<uint32_t>(options.rows_max),
          .rotate_keys = options.rotate_keys,
          .query_window = options.query_window,
          .codebook = options.codebook};
}

absl::StatusOr<Device> NewDevice(const DeviceOptions& options) {
  const DeviceChoice& choice = options.choice;
  if (choice.kind == DeviceKind::kCpu) return NewCpuDevice(options);
  absl::StatusOr<Device> cuda = NewCudaDevice(choice.index, options);
  if (!absl::IsUnavailable(cuda.status())) return cuda;
  if (choice.kind == DeviceKind::kCuda) {
    return absl::InvalidArgumentError(absl::StrCat("device: ", FormatDeviceChoice(choice), ": ",
                                                   cuda.status().message(),
                                                   "; allowed here: auto, cpu"));
  }
  KV_ASSIGN_OR_RETURN(Device cpu, NewCpuDevice(options));
  cpu.why_not_cuda = std::string(cuda.status().message());
  return cpu;
}

}  // namespace palimpsest
