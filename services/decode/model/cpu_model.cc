// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/cpu_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "services/decode/model/elementwise.h"
#include "services/decode/model/linear.h"
#include "services/decode/model/rope.h"
#include "services/decode/model/safetensors.h"
#include "services/decode/model/sampler.h"
#include "services/decode/model/step_checks.h"
#include "services/decode/model/weights.h"

namespace palimpsest {
namespace {

// Activations of one step, allocated once for the largest. Rows are contiguous in each.
struct Activations {
  Activations(const ModelConfig& c, int rows)
      : hidden(Size(rows, c.hidden_size)),
        normed(Size(rows, c.hidden_size)),
        projected(Size(rows, c.hidden_size)),
        qkv(Size(rows, c.query_size() + 2 * c.kv_size())),
        q(Size(rows, c.query_size())),
        k(Size(rows, c.kv_size())),
        v(Size(rows, c.kv_size())),
        attended(Size(rows, c.query_size())),
        gate_up(Size(rows, 2 * c.intermediate_size)),
        gated(Size(rows, c.intermediate_size)) {}

  static size_t Size(int rows, int columns) { return static_cast<size_t>(rows) * columns; }

  std::vector<float> hidden, normed, projected;  // the residual stream, its norm, what is added
  std::vector<float> qkv, q, k, v, attended;
  std::vector<float> gate_up, gated;
};

class CpuModel final : public Model {
 public:
  CpuModel(ModelConfig config, const CpuModelOptions& options, std::unique_ptr<LinearEngine> engine,
           ModelWeights weights)
      : config_(std::move(config)),
        options_(options),
        engine_(std::move(engine)),
        weights_(std::move(weights)),
        rotary_(config_.rope, config_.head_dim, options.rows_max),
        activations_(config_, LinearEngine::PaddedRows(options.rows_max)),
        logits_(Activations::Size(LinearEngine::PaddedRows(options.logit_rows_max),
                                  config_.vocab_size)) {}

  const ModelConfig& config() const override { return config_; }
  int rows_max() const override { return options_.rows_max; }
  int logit_rows_max() const override { return options_.logit_rows_max; }
  bool may_observe(int layer) const override { return layer >= 0 && layer < config_.layers; }
  uint64_t weight_bytes() const override { return weights_.bytes; }

  absl::Status Forward(const StepBatch& batch, Backend& backend, absl::Span<float> logits) override;
  absl::Status StartGenerate(const StepBatch& batch, Backend& backend,
                             absl::Span<const SampleSpec> samples) override;
  absl::Status AwaitTokens(absl::Span<int32_t> tokens) override { return chosen_.Await(tokens); }

 private:
  absl::Status Run(const StepBatch& batch, Backend& backend);
  void Embed(const StepBatch& batch);
  absl::Status Attention(int layer, int rows, Backend& backend);
  void SplitHeads(const LayerWeights& layer, int rows);
  void NormAndRotate(int row, absl::Span<const float> norm, int heads, float* x) const;
  absl::Status Mlp(const LayerWeights& layer, int rows);
  absl::StatusOr<absl::Span<const float>> Logits(absl::Span<const uint32_t> rows);
  void Norm(absl::Span<const float> weight, int rows);
  void AddProjected(int rows);
  float SoftmaxScale() const { return 1.0f / std::sqrt(static_cast<float>(config_.head_dim)); }

  const ModelConfig config_;
  const CpuModelOptions options_;
  const std::unique_ptr<LinearEngine> engine_;
  const ModelWeights weights_;
  RotaryTable rotary_;
  Activations activations_;
  std::vector<float> logits_;  // of the rows the head may be applied to, padding included
  ChosenTokens chosen_;
};

absl::Status CpuModel::Forward(const StepBatch& batch, Backend& backend, absl::Span<float> logits) {
  KV_RETURN_IF_ERROR(CheckForward(*this, batch, logits.size()));
  KV_RETURN_IF_ERROR(Run(batch, backend));
  KV_ASSIGN_OR_RETURN(const absl::Span<const float> computed, Logits(batch.logit_rows));
  std::copy(computed.begin(), computed.end(), logits.begin());
  return absl::OkStatus();
}

absl::Status CpuModel::StartGenerate(const StepBatch& batch, Backend& backend,
                                     absl::Span<const SampleSpec> samples) {
  KV_RETURN_IF_ERROR(CheckStart(*this, batch, samples.size(), chosen_.steps()));
  StepBatch known = batch;
  known.tokens = chosen_.Resolve(batch.tokens);
  KV_RETURN_IF_ERROR(Run(known, backend));
  KV_ASSIGN_OR_RETURN(const absl::Span<const float> logits, Logits(batch.logit_rows));
  const absl::Span<int32_t> tokens = chosen_.Start(samples.size());
  const size_t vocabulary = config_.vocab_size;
  for (size_t i = 0; i < samples.size(); ++i) {
    const absl::StatusOr<int32_t> token = SampleToken(logits.subspan(i * vocabulary, vocabulary),
                                                      samples[i].params, samples[i].position);
    tokens[i] = token.ok() ? *token : kNoToken;  // SampleToken fails for one reason alone
  }
  return absl::OkStatus();
}

// Every layer of a checked batch; leaves the residual stream in `hidden`.
absl::Status CpuModel::Run(const StepBatch& batch, Backend& backend) {
  if (backend.activation_type() != ActivationType::kFloat32) {
    return absl::InvalidArgumentError("a CPU model needs a backend with float activations");
  }
  KV_RETURN_IF_ERROR(backend.BeginStep(batch.sequences, batch.rows));
  Embed(batch);
  const int rows = static_cast<int>(batch.tokens.size());
  absl::Span<const int> observed;
  if (batch.observer != nullptr) observed = batch.observer->layers();
  for (int layer = 0; layer < config_.layers; ++layer) {
    KV_RETURN_IF_ERROR(Attention(layer, rows, backend));
    if (!observed.empty() && observed.front() == layer) {
      observed.remove_prefix(1);
      KV_RETURN_IF_ERROR(batch.observer->AfterAttend(
          layer, {.q = activations_.q.data(), .scale = SoftmaxScale()}));
    }
    KV_RETURN_IF_ERROR(Mlp(weights_.layers[layer], rows));
  }
  return absl::OkStatus();
}

// Fills the residual stream with embeddings, and the rotary table with the rows' positions.
void CpuModel::Embed(const StepBatch& batch) {
  const size_t hidden = config_.hidden_size;
  for (size_t row = 0; row < batch.tokens.size(); ++row) {
    std::memcpy(&activations_.hidden[row * hidden],
                &weights_.embedding[static_cast<size_t>(batch.tokens[row]) * hidden],
                hidden * sizeof(float));
  }
  for (const StepRows& part : batch.rows) {
    const SequenceView& view = batch.sequences[part.sequence];
    for (uint32_t i = 0; i < part.count; ++i) {
      rotary_.Set(static_cast<int>(part.row + i), view.open_position + view.open_count + i);
    }
  }
}

absl::Status CpuModel::Attention(int layer, int rows, Backend& backend) {
  const LayerWeights& weights = weights_.layers[layer];
  Activations& a = activations_;
  Norm(weights.input_norm, rows);
  KV_RETURN_IF_ERROR(engine_->Apply(weights.qkv, a.normed.data(), rows, a.qkv.data()));
  SplitHeads(weights, rows);
  KV_RETURN_IF_ERROR(backend.Append(layer, {.q = a.q.data(), .k = a.k.data(), .v = a.v.data()}));
  KV_RETURN_IF_ERROR(
      backend.Attend(layer, {.q = a.q.data(), .out = a.attended.data(), .scale = SoftmaxScale()}));
  KV_RETURN_IF_ERROR(engine_->Apply(weights.output, a.attended.data(), rows, a.projected.data()));
  AddProjected(rows);
  return absl::OkStatus();
}

// Takes the fused product apart into the contiguous q, k and v the backend reads.
void CpuModel::SplitHeads(const LayerWeights& layer, int rows) {
  const size_t q_size = config_.query_size();
  const size_t kv_size = config_.kv_size();
  for (int row = 0; row < rows; ++row) {
    const float* fused = &activations_.qkv[row * (q_size + 2 * kv_size)];
    float* q = &activations_.q[row * q_size];
    float* k = &activations_.k[row * kv_size];
    std::memcpy(q, fused, q_size * sizeof(float));
    std::memcpy(k, fused + q_size, kv_size * sizeof(float));
    std::memcpy(&activations_.v[row * kv_size], fused + q_size + kv_size, kv_size * sizeof(float));
    NormAndRotate(row, layer.q_norm, config_.query_heads, q);
    NormAndRotate(row, layer.k_norm, config_.kv_heads, k);
  }
}

void CpuModel::NormAndRotate(int row, absl::Span<const float> norm, int heads, float* x) const {
  for (int head = 0; head < heads && !norm.empty(); ++head) {
    float* values = x + static_cast<size_t>(head) * config_.head_dim;
    RmsNorm(values, norm.data(), config_.rms_eps, config_.head_dim, values);
  }
  rotary_.Rotate(row, heads, x);
}

absl::Status CpuModel::Mlp(const LayerWeights& layer, int rows) {
  Activations& a = activations_;
  const size_t size = config_.intermediate_size;
  Norm(layer.post_norm, rows);
  KV_RETURN_IF_ERROR(engine_->Apply(layer.gate_up, a.normed.data(), rows, a.gate_up.data()));
  for (int row = 0; row < rows; ++row) {
    const float* gate = &a.gate_up[row * 2 * size];
    SwiGlu(gate, gate + size, size, &a.gated[row * size]);
  }
  KV_RETURN_IF_ERROR(engine_->Apply(layer.down, a.gated.data(), rows, a.projected.data()));
  AddProjected(rows);
  return absl::OkStatus();
}

// The logits of these rows, [rows, vocab_size], valid until the next call.
absl::StatusOr<absl::Span<const float>> CpuModel::Logits(absl::Span<const uint32_t> rows) {
  if (rows.empty()) return absl::Span<const float>();
  const size_t hidden = config_.hidden_size;
  const int wanted = static_cast<int>(rows.size());
  for (int i = 0; i < wanted; ++i) {  // gathered into `normed`, which nobody reads any more
    RmsNorm(&activations_.hidden[rows[i] * hidden], weights_.final_norm.data(), config_.rms_eps,
            hidden, &activations_.normed[i * hidden]);
  }
  KV_RETURN_IF_ERROR(
      engine_->Apply(weights_.head, activations_.normed.data(), wanted, logits_.data()));
  return absl::MakeConstSpan(logits_).first(rows.size() * config_.vocab_size);
}

void CpuModel::Norm(absl::Span<const float> weight, int rows) {
  const size_t hidden = config_.hidden_size;
  for (int row = 0; row < rows; ++row) {
    RmsNorm(&activations_.hidden[row * hidden], weight.data(), config_.rms_eps, hidden,
            &activations_.normed[row * hidden]);
  }
}

void CpuModel::AddProjected(int rows) {
  AddInPlace(activations_.projected.data(), Activations::Size(rows, config_.hidden_size),
             activations_.hidden.data());
}

absl::StatusOr<std::unique_ptr<Model>> MakeModel(const ModelConfig& config,
                                                 const CpuModelOptions& options,
                                                 const TensorReader& read) {
  constexpr int kThreadsMax = 256;
  constexpr int kRowsMax = 8192;
  if (options.threads < 1 || options.threads > kThreadsMax || options.rows_max < 1 ||
      options.rows_max > kRowsMax || options.logit_rows_max < 1 ||
      options.logit_rows_max > options.rows_max) {
    return absl::InvalidArgumentError(
        absl::StrCat("model options: threads ", options.threads, " (1 to ", kThreadsMax,
                     "), rows_max ", options.rows_max, " (1 to ", kRowsMax, "), logit_rows_max ",
                     options.logit_rows_max, " (1 to rows_max)"));
  }
  KV_ASSIGN_OR_RETURN(
      std::unique_ptr<LinearEngine> engine,
      LinearEngine::New(options.team != nullptr ? options.team
                                                : std::make_shared<TaskTeam>(options.threads)));
  const RowBounds bounds = {.rows_max = options.rows_max, .logit_rows_max = options.logit_rows_max};
  KV_ASSIGN_OR_RETURN(ModelWeights weights, PackWeights(config, bounds, read, *engine));
  return std::unique_ptr<Model>(
      new CpuModel(config, options, std::move(engine), std::move(weights)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> NewCpuModel(const std::string& folder,
                                                   const CpuModelOptions& options) {
  KV_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(folder));
  KV_ASSIGN_OR_RETURN(const std::unique_ptr<WeightStore> store, WeightStore::Open(folder));
  return MakeModel(config, options, [&](absl::string_view name, absl::Span<const int64_t> shape) {
    return store->ReadFloats(name, shape);
  });
}

absl::StatusOr<std::unique_ptr<Model>> NewSyntheticCpuModel(const ModelConfig& config,
                                                            uint64_t seed,
                                                            const CpuModelOptions& options) {
  return MakeModel(config, options, SyntheticTensors(seed));
}

}  // namespace palimpsest
