// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/model_config.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "services/decode/model/json_fields.h"

namespace palimpsest {
namespace {

using nlohmann::json;

// Bounds wide enough for every published dense model, tight enough that no product of two of them
// overflows an int64_t of bytes.
constexpr int64_t kHiddenMax = 65536;
constexpr int64_t kHeadsMax = 1024;
constexpr int64_t kVocabMax = 4 << 20;
constexpr int64_t kPositionsMax = 1 << 24;
constexpr size_t kConfigBytesMax = 1 << 20;
constexpr size_t kEosIdsMax = 64;

absl::StatusOr<ModelFamily> ReadFamily(const json& config) {
  constexpr absl::string_view kAllowed = "llama, qwen2, qwen3";
  const json* type = FindField(config, "model_type");
  if (type == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("model_type: missing, allowed: ", kAllowed));
  }
  if (*type == "llama") return ModelFamily::kLlama;
  if (*type == "qwen2") return ModelFamily::kQwen2;
  if (*type == "qwen3") return ModelFamily::kQwen3;
  return FieldError("model_type", *type, kAllowed);
}

// Settings that would change the arithmetic in a way the engine does not compute.
absl::Status RefuseUnsupported(const json& config) {
  if (const json* act = FindField(config, "hidden_act"); act != nullptr && *act != "silu") {
    return FieldError("hidden_act", *act, "\"silu\"");
  }
  KV_ASSIGN_OR_RETURN(const bool sliding, ReadBoolOr(config, "use_sliding_window", false));
  if (sliding) return FieldError("use_sliding_window", true, "false (full attention only)");
  if (const json* types = FindField(config, "layer_types"); types != nullptr) {
    if (!types->is_array()) return FieldError("layer_types", *types, "a list");
    for (const json& type : *types) {
      if (type != "full_attention") return FieldError("layer_types", type, "\"full_attention\"");
    }
  }
  if (const json* quantised = FindField(config, "quantization_config"); quantised != nullptr) {
    return FieldError("quantization_config", *quantised, "absent (f32, bf16 or f16 weights)");
  }
  KV_ASSIGN_OR_RETURN(const double rotary,
                      ReadRealOr(config, {"partial_rotary_factor", 0.0, 1.0}, 1.0));
  if (rotary != 1.0) return FieldError("partial_rotary_factor", rotary, "1.0");
  return absl::OkStatus();
}

absl::Status ReadSizes(const json& config, ModelConfig* out) {
  struct Size {
    IntField field;
    int* value;
  };
  const Size sizes[] = {
      {{"hidden_size", 1, kHiddenMax}, &out->hidden_size},
      {{"num_hidden_layers", 1, 512}, &out->layers},
      {{"num_attention_heads", 1, kHeadsMax}, &out->query_heads},
      {{"intermediate_size", 1, 4 * kHiddenMax}, &out->intermediate_size},
      {{"vocab_size", 1, kVocabMax}, &out->vocab_size},
      {{"max_position_embeddings", 1, kPositionsMax}, &out->max_positions},
  };
  for (const Size& size : sizes) {
    KV_ASSIGN_OR_RETURN(const int64_t value, ReadInt(config, size.field));
    *size.value = static_cast<int>(value);
  }
  KV_ASSIGN_OR_RETURN(out->kv_heads, ReadIntOr(config, {"num_key_value_heads", 1, out->query_heads},
                                               out->query_heads));
  if (out->query_heads % out->kv_heads != 0) {
    return FieldError("num_key_value_heads", out->kv_heads,
                      absl::StrCat("a divisor of num_attention_heads (", out->query_heads, ")"));
  }
  // Qwen3 alone has a default that is not hidden / heads.
  const int derived =
      out->family == ModelFamily::kQwen3 ? 128 : out->hidden_size / out->query_heads;
  KV_ASSIGN_OR_RETURN(out->head_dim, ReadIntOr(config, {"head_dim", 1, 512}, derived));
  if (out->head_dim < 16 || out->head_dim > 512 || out->head_dim % 16 != 0) {
    return FieldError("head_dim", out->head_dim, "a multiple of 16 from 16 to 512");
  }
  KV_ASSIGN_OR_RETURN(const double eps, ReadRealOr(config, {"rms_norm_eps", 0.0, 1.0}, 1e-6));
  out->rms_eps = static_cast<float>(eps);
  return absl::OkStatus();
}

absl::Status ReadFlags(const json& config, ModelConfig* out) {
  KV_ASSIGN_OR_RETURN(out->tied_embeddings, ReadBoolOr(config, "tie_word_embeddings", false));
  KV_ASSIGN_OR_RETURN(const bool attention_bias, ReadBoolOr(config, "attention_bias", false));
  KV_ASSIGN_OR_RETURN(const bool mlp_bias, ReadBoolOr(config, "mlp_bias", false));
  switch (out->family) {
    case ModelFamily::kLlama:
      out->qkv_bias = out->output_bias = attention_bias;
      out->mlp_bias = mlp_bias;
      break;
    case ModelFamily::kQwen2:  // fixed by the architecture, not by a key
      out->qkv_bias = true;
      break;
    case ModelFamily::kQwen3:
      out->qkv_bias = out->output_bias = attention_bias;
      out->qk_norm = true;
      break;
  }
  return absl::OkStatus();
}

absl::Status ReadIds(const json& config, ModelConfig* out) {
  const int64_t last = out->vocab_size - 1;
  if (const json* eos = FindField(config, "eos_token_id"); eos != nullptr) {
    const json list = eos->is_array() ? *eos : json::array({*eos});
    if (list.size() > kEosIdsMax) {
      return FieldError("eos_token_id", *eos, absl::StrCat("at most ", kEosIdsMax, " ids"));
    }
    out->eos_ids.clear();
    for (const json& id : list) {
      KV_ASSIGN_OR_RETURN(const int64_t value,
                          ReadInt(json{{"eos_token_id", id}}, {"eos_token_id", 0, last}));
      out->eos_ids.push_back(static_cast<int32_t>(value));
    }
  }
  if (FindField(config, "bos_token_id") != nullptr) {
    KV_ASSIGN_OR_RETURN(const int64_t bos, ReadInt(config, {"bos_token_id", 0, last}));
    out->bos_id = static_cast<int32_t>(bos);
  }
  return absl::OkStatus();
}

absl::Status ReadYarn(const json& scaling, RopeConfig* rope) {
  KV_ASSIGN_OR_RETURN(rope->beta_fast, ReadRealOr(scaling, {"beta_fast", 1e-3, 1e6}, 32.0));
  KV_ASSIGN_OR_RETURN(rope->beta_slow, ReadRealOr(scaling, {"beta_slow", 1e-3, 1e6}, 1.0));
  KV_ASSIGN_OR_RETURN(rope->truncate, ReadBoolOr(scaling, "truncate", true));
  KV_ASSIGN_OR_RETURN(const double mscale, ReadRealOr(scaling, {"mscale", 0.0, 100.0}, 0.0));
  KV_ASSIGN_OR_RETURN(const double mscale_all,
                      ReadRealOr(scaling, {"mscale_all_dim", 0.0, 100.0}, 0.0));
  const auto mscale_of = [&](double m) {
    return rope->factor <= 1.0 ? 1.0 : 0.1 * m * std::log(rope->factor) + 1.0;
  };
  const double derived = mscale != 0.0 && mscale_all != 0.0
                             ? mscale_of(mscale) / mscale_of(mscale_all)
                             : mscale_of(1.0);
  KV_ASSIGN_OR_RETURN(rope->attention_factor,
                      ReadRealOr(scaling, {"attention_factor", 1e-3, 100.0}, derived));
  return absl::OkStatus();
}

absl::Status ReadScaling(const json& scaling, int max_positions, RopeConfig* rope) {
  constexpr absl::string_view kAllowed = "default, linear, llama3, yarn";
  const json* type = FindField(scaling, "rope_type");
  if (type == nullptr) type = FindField(scaling, "type");
  if (type == nullptr || *type == "default") return absl::OkStatus();
  if (*type == "linear") {
    rope->scaling = RopeScaling::kLinear;
  } else if (*type == "llama3") {
    rope->scaling = RopeScaling::kLlama3;
  } else if (*type == "yarn") {
    rope->scaling = RopeScaling::kYarn;
  } else {
    return FieldError("rope_type", *type, kAllowed);
  }
  KV_ASSIGN_OR_RETURN(rope->factor, ReadReal(scaling, {"factor", 1.0, 1e6}));
  if (rope->scaling == RopeScaling::kLinear) return absl::OkStatus();
  KV_ASSIGN_OR_RETURN(
      rope->original_max_positions,
      ReadRealOr(scaling, {"original_max_position_embeddings", 1, kPositionsMax}, max_positions));
  if (rope->scaling == RopeScaling::kYarn) return ReadYarn(scaling, rope);
  KV_ASSIGN_OR_RETURN(rope->low_freq_factor, ReadReal(scaling, {"low_freq_factor", 1e-3, 1e6}));
  KV_ASSIGN_OR_RETURN(rope->high_freq_factor, ReadReal(scaling, {"high_freq_factor", 1e-3, 1e6}));
  if (rope->high_freq_factor <= rope->low_freq_factor) {
    return FieldError("high_freq_factor", rope->high_freq_factor, "more than low_freq_factor");
  }
  return absl::OkStatus();
}

absl::Status ReadRope(const json& config, ModelConfig* out) {
  // Older files: rope_theta beside rope_scaling. Newer ones: both inside rope_parameters.
  const RealField theta_field = {"rope_theta", 1.0 + 1e-6, 1e12};
  KV_ASSIGN_OR_RETURN(out->rope.theta, ReadRealOr(config, theta_field, 10000.0));
  for (const absl::string_view key : {"rope_scaling", "rope_parameters"}) {
    const json* scaling = FindField(config, key);
    if (scaling == nullptr) continue;
    if (!scaling->is_object()) return FieldError(key, *scaling, "an object or null");
    KV_ASSIGN_OR_RETURN(out->rope.theta, ReadRealOr(*scaling, theta_field, out->rope.theta));
    KV_ASSIGN_OR_RETURN(const double rotary,
                        ReadRealOr(*scaling, {"partial_rotary_factor", 0.0, 1.0}, 1.0));
    if (rotary != 1.0) return FieldError("partial_rotary_factor", rotary, "1.0");
    KV_RETURN_IF_ERROR(ReadScaling(*scaling, out->max_positions, &out->rope));
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view Name(ModelFamily family) {
  switch (family) {
    case ModelFamily::kLlama:
      return "llama";
    case ModelFamily::kQwen2:
      return "qwen2";
    case ModelFamily::kQwen3:
      return "qwen3";
  }
  return "unknown";
}

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text) {
  KV_ASSIGN_OR_RETURN(const json config, ParseJson(text, "config.json"));
  if (!config.is_object()) return FieldError("config.json", config, "an object");
  ModelConfig out;
  KV_ASSIGN_OR_RETURN(out.family, ReadFamily(config));
  KV_RETURN_IF_ERROR(RefuseUnsupported(config));
  KV_RETURN_IF_ERROR(ReadSizes(config, &out));
  KV_RETURN_IF_ERROR(ReadFlags(config, &out));
  KV_RETURN_IF_ERROR(ReadIds(config, &out));
  KV_RETURN_IF_ERROR(ReadRope(config, &out));
  return out;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& folder) {
  KV_ASSIGN_OR_RETURN(const std::string text,
                      ReadWholeFile(absl::StrCat(folder, "/config.json"), kConfigBytesMax));
  KV_ASSIGN_OR_RETURN(ModelConfig config, ParseModelConfig(text));
  const absl::StatusOr<std::string> generation =
      ReadWholeFile(absl::StrCat(folder, "/generation_config.json"), kConfigBytesMax);
  if (absl::IsNotFound(generation.status())) return config;
  KV_RETURN_IF_ERROR(generation.status());
  KV_ASSIGN_OR_RETURN(const json parsed, ParseJson(*generation, "generation_config.json"));
  KV_RETURN_IF_ERROR(ReadIds(parsed, &config));
  return config;
}

}  // namespace palimpsest
