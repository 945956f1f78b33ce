// SPDX-License-Identifier: Apache-2.0
// What was found of one text at one point of the grid, and the file of JSON lines in which a run
// that was cut off finds what it need not do again.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/cli/likelihood/divergence.h"
#include "services/cli/line_file.h"

namespace palimpsest::cli {

// What is measured. Equal ones need no second run; on which device one was made does not count.
struct PointIdentity {
  std::string model_fingerprint;
  std::string text;
  std::string text_fingerprint;
  uint32_t prompt_tokens = 0;
  uint32_t every = 1;  // of so many positions one was compared
  std::string policy;
  uint32_t window_tokens = 0;
  std::string budget;   // GridPoint::BudgetLabel
  std::string formats;  // of the pages
  std::string aid;      // fingerprint of the codebook or calibration that the policy used, or ""

  std::string Key() const;
};

struct PointResult {
  PointIdentity identity;
  std::string device;          // "cpu", "cuda:0"
  std::string commit;          // of what found it
  uint32_t tokens = 0;         // of the text, prompt included
  uint32_t budget_tokens = 0;  // 0: no bound
  DivergenceSummary divergence;
  double bytes_percent_mean = 0;  // of the full cache's, over its steps; all bytes
  double bytes_percent_peak = 0;  // the most it held, of the full cache at its end
  double live_tokens_mean = 0;    // of a lane
  uint32_t live_tokens_peak = 0;
};

std::string ToJsonLine(const PointResult& result);  // without the line's end

// Results of `text`, which is that of the file `path`. InvalidArgument names path and line.
absl::StatusOr<std::vector<PointResult>> ParseResults(absl::string_view text,
                                                      const std::string& path);

// A file that grows by a line for each result. What it already holds is read first; a last line
// that was cut off in the writing is dropped.
class ResultFile {
 public:
  // An empty path: nothing is kept. Unavailable when it cannot be written, InvalidArgument when it
  // holds something else.
  absl::Status Open(const std::string& path);

  // As Open, for a file that must be there and is left as it is.
  absl::Status Read(const std::string& path);

  // In the order of the file, of equal ones the last.
  const std::vector<PointResult>& all() const { return results_; }
  // The result of the same identity, until the next Add, or null.
  const PointResult* Find(const PointIdentity& identity) const;
  absl::Status Add(const PointResult& result);

 private:
  absl::Status Load(absl::string_view text, const std::string& path);
  void Keep(PointResult result);

  LineFile file_;
  std::vector<PointResult> results_;
  std::map<std::string, size_t> index_;  // of results_, by key
};

}  // namespace palimpsest::cli
