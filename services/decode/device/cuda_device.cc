// SPDX-License-Identifier: Apache-2.0
#include "services/decode/device/cuda_device.h"

#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_memory.h"
#include "services/decode/model/cuda/cuda_model.h"

namespace palimpsest {
namespace {

constexpr uint64_t kSeed = 1;  // of synthetic weights

}  // namespace

absl::StatusOr<Device> NewCudaDevice(int index, const DeviceOptions& options) {
  absl::StatusOr<std::unique_ptr<CudaBackend>> backend =
      NewCudaBackend(BackendConfigOf(options), {.device = index});
  if (absl::IsInvalidArgument(backend.status())) {
    return absl::UnavailableError(backend.status().message());
  }
  KV_RETURN_IF_ERROR(backend.status());
  CudaModelOptions model_options{
      .rows_max = options.rows_max, .logit_rows_max = options.logit_rows_max, .log = options.log};
  // All of them, since a request may bring a calibration of its own: a few MiB a layer.
  model_options.observed_layers.resize(static_cast<size_t>(options.source.config.layers));
  std::iota(model_options.observed_layers.begin(), model_options.observed_layers.end(), 0);
  Device device{.name = absl::StrCat("cuda:", index), .asynchronous = true};
  if (options.source.is_synthetic()) {
    KV_ASSIGN_OR_RETURN(device.model, NewSyntheticCudaModel(options.source.config, kSeed,
                                                            model_options, backend->get()));
  } else {
    KV_ASSIGN_OR_RETURN(device.model,
                        NewCudaModel(options.source.folder, model_options, backend->get()));
  }
  device.read_activations = [stream = (*backend)->stream()](const void* from,
                                                            absl::Span<uint8_t> out) {
    const cudaError_t copied =
        cudaMemcpyAsync(out.data(), from, out.size(), cudaMemcpyDeviceToHost, stream);
    return cuda::ToStatus(copied == cudaSuccess ? cudaStreamSynchronize(stream) : copied,
                          "copy activations");
  };
  device.backend = *std::move(backend);
  return device;
}

}  // namespace palimpsest
