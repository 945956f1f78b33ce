// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/svg.h"
#include "services/cli/eval/picture.h"
#include "services/cli/grid/picture_style.h"

namespace palimpsest::cli {
namespace {

using svg::Box;
using svg::Line;
using svg::Text;

// Pixels.
constexpr double kWidth = 960, kHeight = 560;
constexpr double kLeft = 78, kTop = 84, kPlotWidth = 690, kPlotHeight = 400;
constexpr double kBottom = kTop + kPlotHeight, kRight = kLeft + kPlotWidth;
constexpr double kLegendLeft = kRight + 26, kLegendStep = 24;
constexpr double kSpread = 3;  // between the points of neighbouring lines, so that bars stay apart

// The points of one policy in one set of formats.
struct Series {
  std::string name;
  const char* colour = nullptr;
  bool dashed = false;
  std::vector<const PointFigures*> points;  // by bytes, ascending
};

bool Shown(const PointFigures& f) {
  return f.chains > 0 && std::isfinite(f.bytes_mean_percent) && f.bytes_mean_percent > 0;
}

std::vector<Series> SeriesOf(const std::vector<PointFigures>& figures) {
  std::vector<Series> all;
  for (const PointFigures& f : figures) {
    if (!Shown(f) || f.point.is_full()) continue;
    const std::string name = SeriesName(f.point);
    auto found = std::find_if(all.begin(), all.end(),
                              [&](const Series& series) { return series.name == name; });
    if (found == all.end()) {
      const bool dashed = name != f.point.spec.name;  // other formats than its own
      found = all.insert(all.end(), {name, PolicyColour(f.point.spec.name), dashed, {}});
    }
    found->points.push_back(&f);
  }
  for (Series& series : all) {
    std::sort(series.points.begin(), series.points.end(),
              [](const PointFigures* a, const PointFigures* b) {
                return a->bytes_mean_percent < b->bytes_mean_percent;
              });
  }
  return all;
}

class Plot {
 public:
  explicit Plot(const std::vector<Series>& all) {
    for (const Series& series : all) {
      for (const PointFigures* f : series.points) {
        low_ = std::min(low_, f->bytes_mean_percent);
        high_ = std::max(high_, f->bytes_mean_percent);
      }
    }
    if (low_ > high_) low_ = 1, high_ = 100;
    low_ /= 1.25;
    high_ *= 1.25;
  }

  double X(double percent) const {
    return kLeft + std::log(percent / low_) / std::log(high_ / low_) * kPlotWidth;
  }
  static double Y(double accuracy) { return kBottom - accuracy * kPlotHeight; }

  std::string Axes() const {
    std::string out = Box(kLeft, kTop, kPlotWidth, kPlotHeight, "fill=\"#f5f7fa\"");
    for (int tenth = 0; tenth <= 10; tenth += 2) {
      const double y = Y(tenth / 10.0);
      out += Line(kLeft, y, kRight, y, "stroke=\"#d9e2ec\" stroke-width=\"1\"");
      out += Text(kLeft - 10, y + 4, absl::StrFormat("%d %%", tenth * 10), {.anchor = "end"});
    }
    for (const double percent :
         {0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 70.0, 100.0}) {
      if (percent < low_ || percent > high_) continue;
      out += Line(X(percent), kTop, X(percent), kBottom, "stroke=\"#d9e2ec\" stroke-width=\"1\"");
      out +=
          Text(X(percent), kBottom + 20, absl::StrFormat("%g %%", percent), {.anchor = "middle"});
    }
    out += Text(kLeft + kPlotWidth / 2, kBottom + 46,
                "all bytes of the cache, of the full bf16 cache; mean over time",
                {.size = 13, .anchor = "middle"});
    return out + svg::UprightText(24, kTop + kPlotHeight / 2, "right answers",
                                  {.size = 13, .anchor = "middle"});
  }

  // A line across, in its interval.
  static std::string Full(const PointFigures& f) {
    const double top = Y(f.interval.high);
    return Box(kLeft, top, kPlotWidth, Y(f.interval.low) - top,
               "fill=\"#1f2933\" fill-opacity=\"0.10\"") +
           Line(kLeft, Y(f.accuracy), kRight, Y(f.accuracy),
                "stroke=\"#1f2933\" stroke-width=\"1.4\" stroke-dasharray=\"6 4\"");
  }

  std::string Draw(const Series& series, double shift) const {
    std::string points, marks;
    for (const PointFigures* f : series.points) {
      const double x = X(f->bytes_mean_percent) + shift;
      absl::StrAppendFormat(&points, "%.1f,%.1f ", x, Y(f->accuracy));
      const std::string bar = absl::StrFormat(
          "stroke=\"%s\" stroke-width=\"1.4\" stroke-opacity=\"0.7\"", series.colour);
      marks += Line(x, Y(f->interval.low), x, Y(f->interval.high), bar);
      marks += Line(x - 3, Y(f->interval.low), x + 3, Y(f->interval.low), bar);
      marks += Line(x - 3, Y(f->interval.high), x + 3, Y(f->interval.high), bar);
      absl::StrAppendFormat(&marks, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n", x,
                            Y(f->accuracy), series.colour);
    }
    return absl::StrFormat(
               "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2.2\"%s/>\n",
               points, series.colour, series.dashed ? " stroke-dasharray=\"7 4\"" : "") +
           marks;
  }

 private:
  double low_ = 1e9, high_ = 0;
};

std::string LegendEntry(int row, const std::string& name, const char* colour, bool dashed) {
  const double y = kTop + 12 + kLegendStep * row;
  const std::string look = absl::StrFormat("stroke=\"%s\" stroke-width=\"2.4\"%s", colour,
                                           dashed ? " stroke-dasharray=\"6 3\"" : "");
  return Line(kLegendLeft, y - 4, kLegendLeft + 26, y - 4, look) +
         Text(kLegendLeft + 34, y, name, {.size = 13, .colour = svg::kInk});
}

}  // namespace

std::string DrawAccuracy(const EvalHeader& header, const std::vector<PointFigures>& figures) {
  const std::vector<Series> all = SeriesOf(figures);
  const Plot plot(all);
  std::string out = Text(kLeft, 34, "Right answers from a compressed cache",
                         {.size = 20, .colour = svg::kInk, .weight = "bold"}) +
                    Text(kLeft, 58,
                         absl::StrCat(header.model, "  ·  ", header.problem_source,
                                      header.samples > 1 ? absl::StrCat(" x ", header.samples) : "",
                                      "  ·  bars: 95 % intervals"),
                         {.size = 13}) +
                    plot.Axes();
  int row = 0;
  for (const PointFigures& f : figures) {
    if (!f.point.is_full() || !Shown(f)) continue;
    out += Plot::Full(f);
    out += LegendEntry(row++, "full cache, bf16", svg::kInk, true);
  }
  const auto middle = static_cast<double>(all.size()) / 2;
  for (size_t i = 0; i < all.size(); ++i) {
    out += plot.Draw(all[i], kSpread * (static_cast<double>(i) - middle));
    out += LegendEntry(row++, all[i].name, all[i].colour, all[i].dashed);
  }
  return svg::Document(kWidth, kHeight, out);
}

}  // namespace palimpsest::cli
