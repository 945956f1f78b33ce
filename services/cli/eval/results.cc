// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/results.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/json_lines.h"
#include "services/cli/terminal.h"

namespace palimpsest::cli {
namespace {

std::string KeyOf(const std::string& point, const std::string& problem, uint32_t sample) {
  return absl::StrCat(point, "\n", problem, "\n", sample);
}

}  // namespace

EvalResults::~EvalResults() {
  if (fd_ >= 0) close(fd_);
}

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
  KV_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  KV_RETURN_IF_ERROR(Parse(text.substr(0, text.rfind('\n') + 1), path));
  if (has_header_) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(Escaped(path), ": holds no results"));
}

absl::Status EvalResults::Open(const std::string& path, const EvalHeader& header) {
  if (path.empty()) {
    header_ = header;
    return absl::OkStatus();
  }
  fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--out ", Escaped(path), ": cannot be written to: ", std::strerror(errno)));
  }
  if (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("--out ", Escaped(path), ": another evaluation is writing it"));
  }
  KV_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  const size_t whole = text.rfind('\n') + 1;  // 0 when there is none
  KV_RETURN_IF_ERROR(Parse(text.substr(0, whole), path));
  path_ = path;
  if (!has_header_) {
    // Nothing, or something that never had a line: only the former may be written to.
    if (!text.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--out ", Escaped(path), ": holds something else than results"));
    }
    header_ = header;
    has_header_ = true;
    return Write(ToJson(header));
  }
  if (const auto difference = Difference(header_, header)) {
    return absl::FailedPreconditionError(
        absl::StrCat("--out ", Escaped(path), " holds results of something else: ", *difference,
                     ". Give another file, or the same settings"));
  }
  if (whole < text.size() && ftruncate(fd_, static_cast<off_t>(whole)) != 0) {
    return absl::UnavailableError(absl::StrCat(Escaped(path), ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::Status EvalResults::AddPoint(const GridPoint& point) {
  for (GridPoint& known : points_) {
    if (known.Key() == point.Key()) return absl::OkStatus();
  }
  points_.push_back(point);
  return Write(ToJson(point));
}

absl::Status EvalResults::Add(ChainRecord record) {
  KV_RETURN_IF_ERROR(Write(ToJson(record)));
  known_[KeyOf(record.point, record.problem, record.sample)] = records_.size();
  records_.push_back(std::move(record));
  return absl::OkStatus();
}

bool EvalResults::Has(const std::string& point, const std::string& problem, uint32_t sample) const {
  return known_.count(KeyOf(point, problem, sample)) > 0;
}

absl::Status EvalResults::Write(const nlohmann::ordered_json& line) {
  if (fd_ < 0) return absl::OkStatus();
  // One write a line: whoever is stopped in between leaves whole lines.
  const std::string text = absl::StrCat(
      line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace), "\n");
  if (WriteAll(fd_, text)) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("--out ", Escaped(path_), ": ", std::strerror(errno)));
}

}  // namespace palimpsest::cli
