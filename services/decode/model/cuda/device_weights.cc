// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/cuda/device_weights.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <utility>

#include "common/base/status_macros.h"
#include "services/decode/model/cuda/fill.h"
#include "services/decode/model/tensor_names.h"

namespace palimpsest::cuda {
namespace {

constexpr uint64_t kAlignment = 256;  // cuBLASLt's fastest kernels ask for 16

absl::Status CopyToDevice(const void* from, const DeviceTensor& to, cudaStream_t stream) {
  // Memory that is not pinned has been read when the call returns.
  return ToStatus(cudaMemcpyAsync(to.data, from, to.bytes(), cudaMemcpyHostToDevice, stream),
                  "copy weights");
}

}  // namespace

uint64_t DeviceTensor::elements() const {
  uint64_t count = 1;
  for (const int64_t size : shape) count *= static_cast<uint64_t>(size);
  return count;
}

TensorFill FillFromStore(const WeightStore* store, cudaStream_t stream) {
  return [store, stream](const DeviceTensor& tensor) -> absl::Status {
    KV_ASSIGN_OR_RETURN(const TensorView view, store->Find(tensor.name, tensor.shape));
    if (view.type == TensorType::kBfloat16 && !tensor.is_float) {
      return CopyToDevice(view.bytes.data(), tensor, stream);
    }
    std::vector<float> floats(tensor.elements());
    CopyAsFloat(view, absl::MakeSpan(floats));
    if (tensor.is_float) return CopyToDevice(floats.data(), tensor, stream);
    std::vector<__nv_bfloat16> rounded(floats.size());
    std::transform(floats.begin(), floats.end(), rounded.begin(),
                   [](float x) { return __float2bfloat16_rn(x); });
    return CopyToDevice(rounded.data(), tensor, stream);
  };
}

TensorFill FillSynthetic(uint64_t seed, cudaStream_t stream) {
  return [seed, stream](const DeviceTensor& tensor) -> absl::Status {
    const SyntheticTensor values = SyntheticTensorOf(seed, tensor.name, tensor.shape);
    return ToStatus(FillUniform(values, tensor.data, tensor.is_float, tensor.elements(), stream),
                    "make random weights");
  };
}

// Lays the tensors out one behind the other from `base`, which may be null to learn the size.
class DeviceWeights::Placer {
 public:
  explicit Placer(uint8_t* base) : base_(base) {}

  Tables Place(const ModelConfig& c) {
    Tables out;
    const std::vector<int64_t> table = {c.vocab_size, c.hidden_size};
    out.embedding = Tensor(std::string(kEmbeddingName), table);
    for (int layer = 0; layer < c.layers; ++layer) out.layers.push_back(Layer(c, layer));
    out.final_norm = Tensor(std::string(kFinalNormName), {c.hidden_size});
    out.head.weights = c.tied_embeddings ? out.embedding : Tensor(std::string(kHeadName), table);
    return out;
  }

  uint64_t bytes() const { return bytes_; }
  const std::vector<DeviceTensor>& tensors() const { return tensors_; }

 private:
  const void* Tensor(std::string name, std::vector<int64_t> shape, bool is_float = false) {
    bytes_ = (bytes_ + kAlignment - 1) / kAlignment * kAlignment;
    return Append(std::move(name), std::move(shape), is_float);
  }

  // Right behind the tensor before.
  const void* Append(std::string name, std::vector<int64_t> shape, bool is_float) {
    uint8_t* data = base_ == nullptr ? nullptr : base_ + bytes_;
    tensors_.push_back({std::move(name), std::move(shape), is_float, data});
    bytes_ += tensors_.back().bytes();
    return data;
  }

  MatmulWeights Fused(const FusedProjection& fused, bool float_bias) {
    MatmulWeights out;
    for (const Projection& part : fused.parts) {
      const bool first = &part == &fused.parts.front();
      const std::vector<int64_t> shape = {part.outputs, fused.inputs};
      const void* at = first ? Tensor(part.weight(), shape) : Append(part.weight(), shape, false);
      if (first) out.weights = at;
    }
    for (const Projection& part : fused.parts) {
      if (!fused.has_bias) break;
      const bool first = &part == &fused.parts.front();
      const void* at = first ? Tensor(part.bias(), {part.outputs}, float_bias)
                             : Append(part.bias(), {part.outputs}, float_bias);
      if (first) out.bias = at;
    }
    return out;
  }

  DeviceLayer Layer(const ModelConfig& c, int layer) {
    const LayerTensors tensors = TensorsOfLayer(c, layer);
    DeviceLayer out;
    out.input_norm = Tensor(tensors.input_norm, {c.hidden_size});
    out.post_norm = Tensor(tensors.post_norm, {c.hidden_size});
    if (c.qk_norm) {
      out.q_norm = Tensor(tensors.q_norm, {c.head_dim});
      out.k_norm = Tensor(tensors.k_norm, {c.head_dim});
    }
    out.qkv = Fused(tensors.qkv, false);
    out.output = Fused(tensors.output, true);
    out.gate_up = Fused(tensors.gate_up, false);
    out.down = Fused(tensors.down, true);
    return out;
  }

  uint8_t* const base_;
  uint64_t bytes_ = 0;
  std::vector<DeviceTensor> tensors_;
};

uint64_t DeviceWeights::BytesFor(const ModelConfig& config) {
  Placer placer(nullptr);
  placer.Place(config);
  return placer.bytes();
}

absl::StatusOr<DeviceWeights> DeviceWeights::Make(const ModelConfig& config, const TensorFill& fill,
                                                  cudaStream_t stream) {
  DeviceWeights out;
  out.bytes_ = BytesFor(config);
  KV_ASSIGN_OR_RETURN(out.memory_, AllocateDevice(out.bytes_, stream, "the weights"));
  Placer placer(out.memory_.get());
  out.tables_ = placer.Place(config);
  for (const DeviceTensor& tensor : placer.tensors()) KV_RETURN_IF_ERROR(fill(tensor));
  KV_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(stream), "fill the weights"));
  return out;
}

}  // namespace palimpsest::cuda
