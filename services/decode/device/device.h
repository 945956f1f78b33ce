// SPDX-License-Identifier: Apache-2.0
// What a worker computes on: a page backend and a model that belong together, on the CPU or on a
// GPU.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/log.h"
#include "kernels/backend.h"
#include "services/decode/model/model.h"

namespace palimpsest {

enum class DeviceKind : uint8_t { kAuto, kCpu, kCuda };

// The worker's setting `device`.
struct DeviceChoice {
  DeviceKind kind = DeviceKind::kAuto;
  int index = 0;  // of the GPU
};

// "auto", "cpu", "cuda" (the first GPU) or "cuda:N". An error says so.
absl::StatusOr<DeviceChoice> ParseDeviceChoice(absl::string_view text);
std::string FormatDeviceChoice(const DeviceChoice& choice);

// Where a model comes from: a Hugging Face folder, or random weights of a known shape.
struct ModelSource {
  std::string folder;     // empty: synthetic
  std::string synthetic;  // the shape's name
  ModelConfig config = {};

  bool is_synthetic() const { return folder.empty(); }
  // How the model is announced: its folder, or "synthetic:SHAPE".
  std::string name() const { return is_synthetic() ? "synthetic:" + synthetic : folder; }
};

// Reads the folder's config, or looks the shape up. InvalidArgument unless exactly one is given.
absl::StatusOr<ModelSource> FindModel(const std::string& folder, const std::string& synthetic);

struct DeviceOptions {
  DeviceChoice choice;
  ModelSource source;
  uint64_t pool_bytes = 0;
  uint32_t open_groups = 0;
  int rows_max = 512;
  int logit_rows_max = 64;
  // What policies to be served want of the backend (BackendConfig).
  bool slot_scores = false;
  bool residue = false;
  uint32_t query_window = 0;
  bool rotate_keys = false;
  std::shared_ptr<const QueryCodebook> codebook = nullptr;
  int threads = 1;     // of the CPU
  Log* log = nullptr;  // progress of a long start; may be null
};

struct Device {
  std::string name;               // "cpu", "cuda:0"
  std::string why_not_cuda = "";  // where `auto` came to the CPU
  bool asynchronous = false;      // calls return before their work is done
  std::unique_ptr<Backend> backend = nullptr;
  std::unique_ptr<Model> model = nullptr;  // goes before the backend
  // Copies what a LayerObserver is shown to host memory; it is there on return.
  std::function<absl::Status(const void* from, absl::Span<uint8_t> out)> read_activations = nullptr;
};

// Makes both, and loads the model. `auto` is the first GPU where this build has CUDA, the GPU is
// usable and there are kernels for the model's shape; else the CPU. InvalidArgument names the
// setting and what is allowed; otherwise what the backend and the model say.
absl::StatusOr<Device> NewDevice(const DeviceOptions& options);

// What a backend of these options is made with.
BackendConfig BackendConfigOf(const DeviceOptions& options);

}  // namespace palimpsest
