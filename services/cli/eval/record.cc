// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/record.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/line_fields.h"

namespace palimpsest::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint32_t kEvalFormatVersion = 1;

template <typename Header, typename Visitor>
void VisitCompared(Header& header, Visitor&& visit) {
  visit("model_fingerprint", header.model_fingerprint);
  visit("problems_hash", header.problems_hash);
  visit("problems", header.problems);
  visit("samples", header.samples);
  visit("temperature", header.sampling.temperature);
  visit("top_k", header.sampling.top_k);
  visit("top_p", header.sampling.top_p);
  visit("min_p", header.sampling.min_p);
  visit("seed", header.sampling.seed);
  visit("max_new_tokens", header.max_new_tokens);
  visit("answer", header.answer);
  visit("store", header.store);
  visit("lockstep", header.lockstep);
  visit("keys_rotated", header.keys_rotated);
}

template <typename Header, typename Visitor>
void VisitHeader(Header& header, Visitor&& visit) {
  VisitCompared(header, visit);
  visit("model", header.model);
  visit("family", header.family);
  visit("synthetic", header.synthetic);
  visit("problem_source", header.problem_source);
  visit("commit", header.commit);
  visit("machine", header.machine);
}

template <typename Record, typename Visitor>
void VisitRecord(Record& record, Visitor&& visit) {
  visit("point", record.point);
  visit("problem", record.problem);
  visit("sample", record.sample);
  visit("right", record.right);
  visit("verdict", record.verdict);
  visit("answer", record.answer);
  visit("loops", record.loops);
  visit("tokens", record.tokens);
  visit("tokens_hash", record.tokens_hash);
  visit("decode_seconds", record.decode_seconds);
  auto& stats = record.stats;
  visit("prompt_tokens", stats.prompt_tokens);
  visit("steps", stats.steps);
  visit("footprint_byte_steps", stats.footprint_byte_steps);
  visit("full_byte_steps", stats.full_byte_steps);
  visit("footprint_bytes_peak", stats.footprint_bytes_peak);
  visit("full_bytes_end", stats.full_bytes_end);
  visit("live_token_steps", stats.live_token_steps);
  visit("live_tokens_peak", stats.live_tokens_peak);
  visit("plans_applied", stats.plans_applied);
  visit("plans_local", stats.plans_local);
  visit("pressure_reliefs", stats.pressure_reliefs);
  visit("timeline", stats.timeline);
  visit("thoughts", record.thoughts);
}

absl::StatusOr<ChainEnd> ParseEnd(const std::string& name) {
  for (const ChainEnd end : {ChainEnd::kStop, ChainEnd::kLength}) {
    if (Name(end) == name) return end;
  }
  return absl::InvalidArgumentError(absl::StrCat("end ", Quoted(name), ": expected stop, length"));
}

}  // namespace

Json ToJson(const EvalHeader& header) {
  FieldWriter writer;
  writer("eval_format", kEvalFormatVersion);
  VisitHeader(header, writer);
  return writer.Take();
}

Json ToJson(const GridPoint& point) {
  Json json{{"point_key", point.Key()},
            {"policy", point.spec.name},
            {"window_tokens", point.spec.window_tokens},
            {"formats", ToString(point.spec.formats)},
            {"aid", point.aid}};
  json["budget_tokens"] = point.bounded ? Json(point.spec.budget_tokens) : Json(nullptr);
  json["target_percent"] =
      point.target_percent.has_value() ? Json(*point.target_percent) : Json(nullptr);
  if (!point.commit.empty()) json["commit"] = point.commit;
  return json;
}

Json ToJson(const ChainRecord& record) {
  FieldWriter writer;
  VisitRecord(record, writer);
  writer("end", std::string(Name(record.end)));
  Json json = writer.Take();
  if (record.moments.empty()) return json;
  Json& list = json["moments"] = Json::array();
  for (const ChainMoment& moment : record.moments) {
    list.push_back({moment.tokens, moment.live_tokens, moment.footprint_bytes});
  }
  return json;
}

absl::StatusOr<EvalHeader> ParseEvalHeader(const nlohmann::json& written) {
  nlohmann::json json = written;
  json.emplace("keys_rotated", false);  // of files from before workers could
  FieldReader reader(json);
  uint32_t version = 0;
  reader("eval_format", version);
  if (reader.status().ok() && version != kEvalFormatVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("eval_format ", version, ": this program reads ", kEvalFormatVersion));
  }
  EvalHeader header;
  VisitHeader(header, reader);
  if (!reader.status().ok()) return reader.status();
  return header;
}

absl::StatusOr<GridPoint> ParseGridPoint(const nlohmann::json& json) {
  FieldReader reader(json);
  std::string name, formats, key;
  GridPoint point;
  reader("policy", name);
  reader("formats", formats);
  reader("point_key", key);
  reader("aid", point.aid);
  KV_RETURN_IF_ERROR(reader.status());
  KV_ASSIGN_OR_RETURN(point.spec, DefaultSpec(name));
  reader("window_tokens", point.spec.window_tokens);
  KV_ASSIGN_OR_RETURN(point.spec.formats, ParseClassFormats(formats));
  point.bounded = json.contains("budget_tokens") && json["budget_tokens"].is_number_unsigned();
  if (point.bounded) reader("budget_tokens", point.spec.budget_tokens);
  if (json.contains("target_percent") && json["target_percent"].is_number()) {
    point.target_percent = json["target_percent"].get<double>();
  }
  if (json.contains("commit")) reader("commit", point.commit);
  KV_RETURN_IF_ERROR(reader.status());
  if (point.Key() == key) return point;
  return absl::InvalidArgumentError(
      absl::StrCat("point_key ", Quoted(key), " is not what its other keys say"));
}

absl::StatusOr<ChainRecord> ParseChainRecord(const nlohmann::json& json) {
  FieldReader reader(json);
  ChainRecord record;
  std::string end;
  VisitRecord(record, reader);
  reader("end", end);
  KV_RETURN_IF_ERROR(reader.status());
  KV_ASSIGN_OR_RETURN(record.end, ParseEnd(end));
  record.stats.new_tokens = record.tokens;
  const auto moments = json.find("moments");
  if (moments == json.end() || !moments->is_array()) return record;
  for (const nlohmann::json& moment : *moments) {
    const bool whole = moment.is_array() && moment.size() == 3 &&
                       std::all_of(moment.begin(), moment.end(),
                                   [](const auto& value) { return value.is_number_unsigned(); });
    if (!whole) return absl::InvalidArgumentError("moments: expected lists of three numbers");
    record.moments.push_back({.tokens = moment[0].get<uint32_t>(),
                              .live_tokens = moment[1].get<uint32_t>(),
                              .footprint_bytes = moment[2].get<uint64_t>()});
  }
  return record;
}

std::optional<std::string> Difference(const EvalHeader& file, const EvalHeader& asked) {
  FieldWriter left, right;
  VisitCompared(file, left);
  VisitCompared(asked, right);
  const Json have = left.Take(), want = right.Take();
  for (const auto& [key, value] : have.items()) {
    if (want[key] == value) continue;
    return absl::StrCat(key, ": the file has ", Escaped(value.dump()), ", asked for ",
                        Escaped(want[key].dump()));
  }
  return std::nullopt;
}

}  // namespace palimpsest::cli
