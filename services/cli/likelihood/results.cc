// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/results.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "services/cli/json_lines.h"
#include "services/cli/line_fields.h"

namespace palimpsest::cli {
namespace {

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
  FieldWriter writer;
  VisitFields(result, writer);
  return LineOf(writer.Take());
}

absl::StatusOr<std::vector<PointResult>> ParseResults(absl::string_view text,
                                                      const std::string& path) {
  std::vector<PointResult> results;
  KV_RETURN_IF_ERROR(ForEachObject(text, path, [&](const nlohmann::json& object) {
    FieldReader reader(object);
    VisitFields(results.emplace_back(), reader);
    return reader.status();
  }));
  return results;
}

absl::Status ResultFile::Load(absl::string_view text, const std::string& path) {
  KV_ASSIGN_OR_RETURN(std::vector<PointResult> results, ParseResults(WholeLines(text), path));
  for (PointResult& result : results) Keep(std::move(result));
  return absl::OkStatus();
}

void ResultFile::Keep(PointResult result) {
  const auto [found, fresh] = index_.try_emplace(result.identity.Key(), results_.size());
  if (fresh) results_.emplace_back();
  results_[found->second] = std::move(result);
}

absl::Status ResultFile::Read(const std::string& path) {
  KV_ASSIGN_OR_RETURN(const std::string text, ReadTextFile("--results", path));
  return Load(text, path);
}

absl::Status ResultFile::Open(const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  KV_ASSIGN_OR_RETURN(const std::string text, file_.Open("--results", path, LineWriters::kMany));
  KV_RETURN_IF_ERROR(Load(text, path));
  return file_.DropCutOffLine();
}

const PointResult* ResultFile::Find(const PointIdentity& identity) const {
  const auto found = index_.find(identity.Key());
  return found == index_.end() ? nullptr : &results_[found->second];
}

absl::Status ResultFile::Add(const PointResult& result) {
  Keep(result);
  return file_.Append(ToJsonLine(result));
}

}  // namespace palimpsest::cli
