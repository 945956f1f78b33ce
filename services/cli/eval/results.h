// SPDX-License-Identifier: Apache-2.0
// The records of an evaluation, in memory and, where a path is given, in a file of JSON lines that
// grows by one line a chain: what is in it when a run starts is not run again. First line: the
// header; a line for each point; then records. The grid may grow from run to run, what else makes a
// record may not.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/cli/eval/record.h"
#include "services/cli/line_file.h"

namespace palimpsest::cli {

class EvalResults {
 public:
  // Reads the file if there is one and begins it if not. An empty path keeps everything in memory.
  // A last line that was cut off in the writing is dropped. InvalidArgument for a file of something
  // else; FailedPrecondition for records that do not belong beside `header`'s, and while another
  // process writes the file.
  absl::Status Open(const std::string& path, const EvalHeader& header);
  // Only looks. NotFound when there is no file.
  absl::Status Read(const std::string& path);

  // A point that is not known yet gets its line.
  absl::Status AddPoint(const GridPoint& point);
  // Unavailable when the file cannot be written.
  absl::Status Add(ChainRecord record);

  const EvalHeader& header() const { return header_; }
  const std::vector<GridPoint>& points() const { return points_; }  // in order
  const std::vector<ChainRecord>& records() const { return records_; }
  bool Has(const std::string& point, const std::string& problem, uint32_t sample) const;

 private:
  absl::Status Parse(absl::string_view text, const std::string& path);

  LineFile file_;
  EvalHeader header_;
  bool has_header_ = false;
  std::vector<GridPoint> points_;
  std::vector<ChainRecord> records_;
  std::map<std::string, size_t> known_;  // by point, problem and sample
};

}  // namespace palimpsest::cli
