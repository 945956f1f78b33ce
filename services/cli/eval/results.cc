// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/results.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/build_info.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/json_lines.h"

namespace palimpsest::cli {
namespace {

std::string KeyOf(const std::string& point, const std::string& problem, uint32_t sample) {
  return absl::StrCat(point, "\n", problem, "\n", sample);
}

}  // namespace

absl::Status EvalResults::Parse(absl::string_view text, const std::string& path) {
  return ForEachObject(text, path, [this](const nlohmann::json& json) -> absl::Status {
    if (!has_header_) {
      KV_ASSIGN_OR_RETURN(header_, ParseEvalHeader(json));
      has_header_ = true;
      return absl::OkStatus();
    }
    if (json.contains("point_key")) {
      KV_ASSIGN_OR_RETURN(GridPoint point, ParseGridPoint(json));
      points_.push_back(std::move(point));
      return absl::OkStatus();
    }
    KV_ASSIGN_OR_RETURN(ChainRecord record, ParseChainRecord(json));
    const auto point = std::find_if(points_.begin(), points_.end(), [&](const GridPoint& one) {
      return one.Key() == record.point;
    });
    if (point == points_.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("point ", Quoted(record.point), " has no line of its own before this one"));
    }
    known_[KeyOf(record.point, record.problem, record.sample)] = records_.size();
    records_.push_back(std::move(record));
    return absl::OkStatus();
  });
}

absl::Status EvalResults::Read(const std::string& path) {
  KV_ASSIGN_OR_RETURN(const std::string text, ReadTextFile("--out", path));
  KV_RETURN_IF_ERROR(Parse(WholeLines(text), path));
  if (has_header_) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--out: ", Escaped(path), ": holds no results"));
}

absl::Status EvalResults::Open(const std::string& path, const EvalHeader& header) {
  if (path.empty()) {
    header_ = header;
    return absl::OkStatus();
  }
  KV_ASSIGN_OR_RETURN(const std::string text, file_.Open("--out", path, LineWriters::kOne));
  KV_RETURN_IF_ERROR(Parse(WholeLines(text), path));
  if (!has_header_) {
    // Nothing, or something that never had a line: only the former may be written to.
    if (!text.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--out ", Escaped(path), ": holds something else than results"));
    }
    header_ = header;
    has_header_ = true;
    return file_.Append(LineOf(ToJson(header)));
  }
  if (const auto difference = Difference(header_, header)) {
    return absl::FailedPreconditionError(
        absl::StrCat("--out ", Escaped(path), " holds results of something else: ", *difference,
                     ". Give another file, or the same settings"));
  }
  return file_.DropCutOffLine();
}

absl::Status EvalResults::AddPoint(const GridPoint& point) {
  for (GridPoint& known : points_) {
    if (known.Key() == point.Key()) return absl::OkStatus();
  }
  points_.push_back(point);
  points_.back().commit = std::string(BuildCommit());  // the file's header tells the first run's
  return file_.Append(LineOf(ToJson(points_.back())));
}

absl::Status EvalResults::Add(ChainRecord record) {
  KV_RETURN_IF_ERROR(file_.Append(LineOf(ToJson(record))));
  known_[KeyOf(record.point, record.problem, record.sample)] = records_.size();
  records_.push_back(std::move(record));
  return absl::OkStatus();
}

bool EvalResults::Has(const std::string& point, const std::string& problem, uint32_t sample) const {
  return known_.count(KeyOf(point, problem, sample)) > 0;
}

}  // namespace palimpsest::cli
