// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/cli/eval/picture.h"
#include "services/cli/grid/bytes_plot.h"

namespace palimpsest::cli {
namespace {

bool Shown(const PointFigures& f) {
  return f.chains > 0 && std::isfinite(f.bytes_mean_percent) && f.bytes_mean_percent > 0;
}

BytesPlot::Value ValueOf(const PointFigures& f) {
  return {.value = f.accuracy, .low = f.interval.low, .high = f.interval.high};
}

// Its points' series, which is made where it is not there yet.
BytesPlot::Series& SeriesOf(const GridPoint& point, std::vector<BytesPlot::Series>& all) {
  const std::string name = SeriesName(point);
  for (BytesPlot::Series& series : all) {
    if (series.name == name) return series;
  }
  const std::string& policy = point.spec.name;
  const bool not_its_own = name != policy;  // other formats or windows
  return all.emplace_back(
      BytesPlot::Series{.name = name, .policy = policy, .dashed = not_its_own, .points = {}});
}

}  // namespace

std::string DrawAccuracy(const EvalHeader& header, const std::vector<PointFigures>& figures) {
  BytesPlot plot{
      .title = "Right answers from a compressed cache",
      .subtitle = absl::StrCat(header.model, "  ·  ", header.problem_source,
                               header.samples > 1 ? absl::StrCat(" x ", header.samples) : "",
                               "  ·  bars: 95 % intervals"),
      .value_name = "right answers"};
  for (const PointFigures& f : figures) {
    if (!Shown(f)) continue;
    if (f.point.is_full()) {
      plot.across.push_back({.name = "full cache, bf16", .at = ValueOf(f)});
    } else {
      SeriesOf(f.point, plot.series)
          .points.push_back({.bytes_percent = f.bytes_mean_percent, .at = ValueOf(f)});
    }
  }
  return Draw(std::move(plot));
}

}  // namespace palimpsest::cli
