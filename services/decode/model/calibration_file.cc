// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/calibration_file.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace palimpsest {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kFormat[] = "palimpsest-calibration";
constexpr size_t kFileBytesMax = 64u << 20;

absl::Status Refuse(absl::string_view path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("calibration: ", path, ": ", what));
}

absl::Status Read(const Json& json, absl::string_view path, uint32_t& out) {
  if (!json.is_number_unsigned() || json.get<uint64_t>() > UINT32_MAX) {
    return Refuse(path, "expected a whole number from 0 to 4294967295");
  }
  out = json.get<uint32_t>();
  return absl::OkStatus();
}

absl::Status Read(const Json& json, absl::string_view path, double& out) {
  if (!json.is_number() || !std::isfinite(json.get<double>())) {
    return Refuse(path, "expected a finite number");
  }
  out = json.get<double>();
  return absl::OkStatus();
}

absl::Status Read(const Json& json, absl::string_view path, float& out) {
  double value = 0.0;
  KV_RETURN_IF_ERROR(Read(json, path, value));
  // A double beyond float's range would be undefined behaviour; no field comes near it.
  if (std::abs(value) > 1e9) return Refuse(path, "expected a number of sensible size");
  out = static_cast<float>(value);
  return absl::OkStatus();
}

absl::Status Read(const Json& json, absl::string_view path, std::string& out) {
  if (!json.is_string()) return Refuse(path, "expected a string");
  out = json.get<std::string>();
  return absl::OkStatus();
}

template <typename T>
absl::Status Read(const Json& json, absl::string_view path, std::vector<T>& out) {
  if (!json.is_array()) return Refuse(path, "expected a list");
  out.resize(json.size());
  for (size_t i = 0; i < out.size(); ++i) {
    KV_RETURN_IF_ERROR(Read(json[i], absl::StrCat(path, "[", i, "]"), out[i]));
  }
  return absl::OkStatus();
}

absl::Status Read(const Json& json, absl::string_view path, ModeCounts& out) {
  std::vector<uint32_t> counts;
  KV_RETURN_IF_ERROR(Read(json, path, counts));
  if (counts.size() != out.size())
    return Refuse(path, absl::StrCat("expected ", out.size(), " counts"));
  std::copy(counts.begin(), counts.end(), out.begin());
  return absl::OkStatus();
}

// An object that must have exactly the keys that are read from it.
class Fields {
 public:
  Fields(const Json& json, std::string path) : json_(json), path_(std::move(path)) {
    if (!json_.is_object()) status_ = Refuse(path_, "expected an object");
  }

  template <typename T>
  Fields& Get(const char* key, T& out) {
    if (const Json* value = Find(key); value != nullptr) status_ = Read(*value, Path(key), out);
    return *this;
  }

  // The value of `key`, or null with status() telling.
  const Json* Find(const char* key) {
    if (!status_.ok()) return nullptr;
    ++read_;
    const auto found = json_.find(key);
    if (found != json_.end()) return &*found;
    status_ = Refuse(Path(key), "missing");
    return nullptr;
  }

  std::string Path(absl::string_view key) const {
    return path_.empty() ? std::string(key) : absl::StrCat(path_, ".", key);
  }

  // After all keys have been read: an error, or an unknown key.
  absl::Status Finish(std::initializer_list<absl::string_view> known) const {
    if (!status_.ok() || json_.size() == read_) return status_;
    for (const auto& item : json_.items()) {
      bool is_known = false;
      for (const absl::string_view key : known) is_known |= key == item.key();
      if (!is_known) return Refuse(Path(item.key()), "unknown key");
    }
    return Refuse(path_, "a key occurs twice");
  }

 private:
  const Json& json_;
  const std::string path_;
  size_t read_ = 0;
  absl::Status status_;
};

Json SettingsToJson(const CalibrationSettings& s) {
  return {{"layer_count", s.layer_count},       {"prominence", s.prominence},
          {"share_min", s.share_min},           {"grid_points", s.grid_points},
          {"histogram_bins", s.histogram_bins}, {"steps_min", s.steps_min}};
}

absl::Status SettingsFromJson(const Json& json, CalibrationSettings& s) {
  return Fields(json, "settings")
      .Get("layer_count", s.layer_count)
      .Get("prominence", s.prominence)
      .Get("share_min", s.share_min)
      .Get("grid_points", s.grid_points)
      .Get("histogram_bins", s.histogram_bins)
      .Get("steps_min", s.steps_min)
      .Finish(
          {"layer_count", "prominence", "share_min", "grid_points", "histogram_bins", "steps_min"});
}

absl::Status LayerFromJson(const Json& json, size_t index, LayerCalibration& layer) {
  return Fields(json, absl::StrCat("layers[", index, "]"))
      .Get("score", layer.score)
      .Get("three_mode_share", layer.three_mode_share)
      .Get("valley_depth", layer.valley_depth)
      .Get("prompts_by_modes", layer.prompts_by_modes)
      .Get("histogram", layer.histogram)
      .Get("density", layer.density)
      .Finish({"score", "three_mode_share", "valley_depth", "prompts_by_modes", "histogram",
               "density"});
}

absl::Status LayersFromJson(const Json& json, std::vector<LayerCalibration>& layers) {
  if (!json.is_array()) return Refuse("layers", "expected a list");
  layers.resize(json.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    KV_RETURN_IF_ERROR(LayerFromJson(json[i], i, layers[i]));
  }
  return absl::OkStatus();
}

// First of all what the file is: another version may have any other fields.
absl::Status CheckHeader(const Json& json) {
  const auto format = json.is_object() ? json.find("format") : json.end();
  if (format == json.end() || *format != kFormat) {
    return Refuse("format", absl::StrCat("expected \"", kFormat, "\""));
  }
  uint32_t version = 0;
  const auto found = json.find("version");
  if (found == json.end()) return Refuse("version", "missing");
  KV_RETURN_IF_ERROR(Read(*found, "version", version));
  if (version == kCalibrationVersion) return absl::OkStatus();
  return Refuse("version", absl::StrCat(version, " is not known here, expected ",
                                        kCalibrationVersion, "; calibrate again"));
}

absl::Status FromJson(const Json& json, CalibrationFile& file) {
  Calibration& c = file.calibration;
  std::string format;
  uint32_t version = 0;
  Fields fields(json, "");
  fields.Get("format", format)
      .Get("version", version)
      .Get("model_fingerprint", file.model_fingerprint)
      .Get("sparsity_layers", c.sparsity_layers)
      .Get("theta", c.theta)
      .Get("warning", c.warning)
      .Get("prompt_count", c.prompt_count);
  const Json* settings = fields.Find("settings");
  const Json* layers = fields.Find("layers");
  KV_RETURN_IF_ERROR(fields.Finish({"format", "version", "model_fingerprint", "sparsity_layers",
                                    "theta", "warning", "prompt_count", "settings", "layers"}));
  KV_RETURN_IF_ERROR(SettingsFromJson(*settings, c.settings));
  return LayersFromJson(*layers, c.layers);
}

}  // namespace

std::string ToJson(const CalibrationFile& file) {
  const Calibration& c = file.calibration;
  const Json head = {{"format", kFormat},
                     {"version", kCalibrationVersion},
                     {"model_fingerprint", file.model_fingerprint},
                     {"sparsity_layers", c.sparsity_layers},
                     {"theta", c.theta},
                     {"warning", c.warning},
                     {"prompt_count", c.prompt_count},
                     {"settings", SettingsToJson(c.settings)}};
  // A line for each field and layer: to be read and compared by people, yet small.
  std::string out = "{\n";
  for (const auto& item : head.items()) {
    absl::StrAppend(&out, " ", Json(item.key()).dump(), ": ", item.value().dump(), ",\n");
  }
  absl::StrAppend(&out, " \"layers\": [");
  const char* separator = "\n  ";
  for (const LayerCalibration& layer : c.layers) {
    const Json json = {{"score", layer.score},
                       {"three_mode_share", layer.three_mode_share},
                       {"valley_depth", layer.valley_depth},
                       {"prompts_by_modes", layer.prompts_by_modes},
                       {"histogram", layer.histogram},
                       {"density", layer.density}};
    absl::StrAppend(&out, separator, json.dump());
    separator = ",\n  ";
  }
  absl::StrAppend(&out, "\n ]\n}\n");
  return out;
}

absl::StatusOr<CalibrationFile> ParseCalibration(absl::string_view text,
                                                 absl::string_view model_fingerprint) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Refuse("file", "not valid JSON");
  KV_RETURN_IF_ERROR(CheckHeader(json));
  CalibrationFile file;
  KV_RETURN_IF_ERROR(FromJson(json, file));
  if (file.model_fingerprint.empty() || file.model_fingerprint.size() > limits::kTextBytesMax) {
    return Refuse("model_fingerprint",
                  absl::StrCat("expected 1 to ", limits::kTextBytesMax, " bytes"));
  }
  if (absl::Status status = Validate(file.calibration); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("calibration: ", status.message()));
  }
  if (!model_fingerprint.empty() && model_fingerprint != file.model_fingerprint) {
    return absl::FailedPreconditionError(absl::StrCat(
        "calibration: model_fingerprint ", file.model_fingerprint,
        ": made for another model than this one (", model_fingerprint, "); calibrate again"));
  }
  return file;
}

absl::Status SaveCalibration(const std::string& path, const CalibrationFile& file) {
  return ReplaceFile(path, ToJson(file));
}

absl::StatusOr<CalibrationFile> LoadCalibration(const std::string& path,
                                                absl::string_view model_fingerprint) {
  KV_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path, kFileBytesMax));
  absl::StatusOr<CalibrationFile> file = ParseCalibration(text, model_fingerprint);
  if (file.ok()) return file;
  return absl::Status(file.status().code(), absl::StrCat(path, ": ", file.status().message()));
}

}  // namespace palimpsest
