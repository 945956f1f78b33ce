// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/results.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/json_lines.h"

namespace palimpsest::cli {
namespace {

using Json = nlohmann::ordered_json;

// Reads the keys of one object, each of which must be there and of its kind.
class Fields {
 public:
  explicit Fields(const nlohmann::json& object) : object_(object) {}

  void Get(const char* key, std::string& out) {
    const nlohmann::json* value = Find(key, &nlohmann::json::is_string, "a text");
    if (value != nullptr) out = value->get<std::string>();
  }
  void Get(const char* key, uint32_t& out) {
    const nlohmann::json* value = Find(key, &nlohmann::json::is_number_unsigned, "a whole number");
    if (value != nullptr) out = value->get<uint32_t>();
  }
  void Get(const char* key, double& out) {
    const nlohmann::json* value = Find(key, &nlohmann::json::is_number, "a number");
    if (value != nullptr) out = value->get<double>();
  }
  const absl::Status& status() const { return status_; }

 private:
  const nlohmann::json* Find(const char* key, bool (nlohmann::json::*is)() const noexcept,
                             absl::string_view kind) {
    const auto found = object_.find(key);
    if (found != object_.end() && ((*found).*is)()) return &*found;
    status_.Update(absl::InvalidArgumentError(absl::StrCat(key, ": expected ", kind)));
    return nullptr;
  }

  const nlohmann::json& object_;
  absl::Status status_;
};

// One list of the keys, for both directions.
template <typename Visit, typename Result>
void VisitFields(Result& result, Visit&& visit) {
  auto& identity = result.identity;
  visit("model_fingerprint", identity.model_fingerprint);
  visit("text", identity.text);
  visit("text_fingerprint", identity.text_fingerprint);
  visit("prompt_tokens", identity.prompt_tokens);
  visit("every", identity.every);
  visit("policy", identity.policy);
  visit("window_tokens", identity.window_tokens);
  visit("budget", identity.budget);
  visit("formats", identity.formats);
  visit("aid", identity.aid);
  visit("device", result.device);
  visit("commit", result.commit);
  visit("tokens", result.tokens);
  visit("budget_tokens", result.budget_tokens);
  visit("positions", result.divergence.positions);
  visit("kl_mean", result.divergence.kl_mean);
  visit("kl_mean_last_half", result.divergence.kl_mean_last_half);
  visit("kl_p95", result.divergence.kl_p95);
  visit("agreement", result.divergence.agreement);
  visit("nll", result.divergence.surprise_mean);
  visit("nll_full", result.divergence.full_surprise_mean);
  visit("bytes_percent_mean", result.bytes_percent_mean);
  visit("bytes_percent_peak", result.bytes_percent_peak);
  visit("live_tokens_mean", result.live_tokens_mean);
  visit("live_tokens_peak", result.live_tokens_peak);
}

}  // namespace

std::string PointIdentity::Key() const {
  return absl::StrJoin(
      {model_fingerprint, text, text_fingerprint, absl::StrCat(prompt_tokens), absl::StrCat(every),
       policy, absl::StrCat(window_tokens), budget, formats, aid},
      "\n");
}

std::string ToJsonLine(const PointResult& result) {
  Json json;
  VisitFields(result, [&](const char* key, const auto& value) { json[key] = value; });
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<std::vector<PointResult>> ParseResults(absl::string_view text,
                                                      const std::string& path) {
  std::vector<PointResult> results;
  KV_RETURN_IF_ERROR(ForEachObject(text, path, [&](const nlohmann::json& object) {
    Fields fields(object);
    PointResult result;
    VisitFields(result, [&](const char* key, auto& value) { fields.Get(key, value); });
    results.push_back(std::move(result));
    return fields.status();
  }));
  return results;
}

absl::Status ResultFile::Load(absl::string_view text) {
  KV_ASSIGN_OR_RETURN(std::vector<PointResult> results, ParseResults(text, path_));
  for (PointResult& result : results) Keep(std::move(result));
  return absl::OkStatus();
}

void ResultFile::Keep(PointResult result) {
  const auto [found, fresh] = index_.try_emplace(result.identity.Key(), results_.size());
  if (fresh) results_.emplace_back();
  results_[found->second] = std::move(result);
}

absl::Status ResultFile::Read(const std::string& path) {
  path_ = path;
  KV_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  return Load(absl::string_view(text).substr(0, text.rfind('\n') + 1));
}

absl::Status ResultFile::Open(const std::string& path) {
  path_ = path;
  if (path.empty()) return absl::OkStatus();
  std::error_code error;
  if (std::filesystem::exists(path, error)) {
    KV_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
    const size_t whole = text.rfind('\n') + 1;  // 0 when there is none
    KV_RETURN_IF_ERROR(Load(absl::string_view(text).substr(0, whole)));
    if (whole < text.size()) std::filesystem::resize_file(path, whole, error);
  }
  file_.open(path, std::ios::binary | std::ios::app);
  if (file_) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--results: ", Escaped(path), " cannot be written to"));
}

const PointResult* ResultFile::Find(const PointIdentity& identity) const {
  const auto found = index_.find(identity.Key());
  return found == index_.end() ? nullptr : &results_[found->second];
}

absl::Status ResultFile::Add(const PointResult& result) {
  Keep(result);
  if (path_.empty()) return absl::OkStatus();
  file_ << absl::StrCat(ToJsonLine(result), "\n") << std::flush;
  if (file_) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("--results: ", Escaped(path_), ": a write failed"));
}

}  // namespace palimpsest::cli
