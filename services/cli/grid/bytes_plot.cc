// SPDX-License-Identifier: Apache-2.0
#include "services/cli/grid/bytes_plot.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "common/base/svg.h"
#include "services/cli/grid/picture_style.h"

namespace palimpsest::cli {
namespace {

using svg::Box;
using svg::Line;
using svg::Text;

// Pixels.
constexpr double kHeight = 560;
constexpr double kLeft = 78, kTop = 84, kPlotWidth = 690, kPlotHeight = 400;
constexpr double kBottom = kTop + kPlotHeight, kRight = kLeft + kPlotWidth;
constexpr double kLegendLeft = kRight + 26, kLegendStep = 24;
constexpr double kNameLeft = kLegendLeft + 34, kLetterWidth = 7, kWidthMin = 960;
// Points of neighbouring lines are set apart by so much, so that their bars are; all by at most
// twice the second, so that they stay where they belong.
constexpr double kSpread = 3, kSpreadMax = 12;
constexpr double kMargin = 1.25;  // beyond the outermost values, on a logarithmic axis

constexpr char kGrid[] = "stroke=\"#d9e2ec\" stroke-width=\"1\"";

// Where a value lies between the ends of an axis, from 0 to 1.
struct Axis {
  bool logarithmic = false;
  double low = 0, high = 1;

  double Share(double value) const {
    if (!logarithmic) return (value - low) / (high - low);
    return std::log(std::clamp(value, low, high) / low) / std::log(high / low);
  }
};

// Around what there is, or from 1 to 100.
Axis Logarithmic(const std::vector<double>& values) {
  if (values.empty()) return {.logarithmic = true, .low = 1 / kMargin, .high = 100 * kMargin};
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return {.logarithmic = true, .low = *low / kMargin, .high = *high * kMargin};
}

class Picture {
 public:
  explicit Picture(const BytesPlot& plot) {
    std::vector<double> bytes, values;
    for (const BytesPlot::Series& series : plot.series) {
      for (const BytesPlot::Point& point : series.points) {
        bytes.push_back(point.bytes_percent);
        values.push_back(point.at.value);
      }
    }
    bytes_ = Logarithmic(bytes);
    if (plot.logarithmic) values_ = Logarithmic(values);
  }

  std::string Axes(const std::string& value_name) const {
    std::string out = Box(kLeft, kTop, kPlotWidth, kPlotHeight, "fill=\"#f5f7fa\"");
    out += values_.logarithmic ? Powers() : Tenths();
    for (const double percent :
         {0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 70.0, 100.0}) {
      if (percent < bytes_.low || percent > bytes_.high) continue;
      out += Line(X(percent), kTop, X(percent), kBottom, kGrid);
      out +=
          Text(X(percent), kBottom + 20, absl::StrFormat("%g %%", percent), {.anchor = "middle"});
    }
    out += Text(kLeft + kPlotWidth / 2, kBottom + 46,
                "all bytes of the cache, of the full bf16 cache; mean over time",
                {.size = 13, .anchor = "middle"});
    return out + svg::UprightText(24, kTop + kPlotHeight / 2, value_name,
                                  {.size = 13, .anchor = "middle"});
  }

  // A line across, in its interval.
  std::string DrawAcross(const BytesPlot::Value& at) const {
    const double top = Y(at.high);
    return Box(kLeft, top, kPlotWidth, Y(at.low) - top, "fill=\"#1f2933\" fill-opacity=\"0.10\"") +
           Line(kLeft, Y(at.value), kRight, Y(at.value),
                "stroke=\"#1f2933\" stroke-width=\"1.4\" stroke-dasharray=\"6 4\"");
  }

  std::string DrawSeries(const BytesPlot::Series& series, double shift) const {
    const char* const colour = PolicyColour(series.policy);
    const std::string bar =
        absl::StrFormat("stroke=\"%s\" stroke-width=\"1.4\" stroke-opacity=\"0.7\"", colour);
    std::string points, marks;
    for (const BytesPlot::Point& point : series.points) {
      const double x = X(point.bytes_percent) + shift;
      const double y = Y(point.at.value), low = Y(point.at.low), high = Y(point.at.high);
      absl::StrAppendFormat(&points, "%.1f,%.1f ", x, y);
      marks += Line(x, low, x, high, bar);
      marks += Line(x - 3, low, x + 3, low, bar);
      marks += Line(x - 3, high, x + 3, high, bar);
      absl::StrAppendFormat(&marks, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n", x, y,
                            colour);
    }
    return absl::StrFormat(
               "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2.2\"%s/>\n",
               points, colour, series.dashed ? " stroke-dasharray=\"7 4\"" : "") +
           marks;
  }

 private:
  double X(double percent) const { return kLeft + bytes_.Share(percent) * kPlotWidth; }
  double Y(double value) const { return kBottom - values_.Share(value) * kPlotHeight; }

  std::string Tick(double value, const std::string& label) const {
    const double y = Y(value);
    return Line(kLeft, y, kRight, y, kGrid) + Text(kLeft - 10, y + 4, label, {.anchor = "end"});
  }

  std::string Tenths() const {
    std::string out;
    for (int tenth = 0; tenth <= 10; tenth += 2) {
      out += Tick(tenth / 10.0, absl::StrFormat("%d %%", tenth * 10));
    }
    return out;
  }

  // 0.1, 0.2, 0.5, 1 ...
  std::string Powers() const {
    std::string out;
    for (double power = std::pow(10.0, std::floor(std::log10(values_.low))); power < values_.high;
         power *= 10) {
      for (const double step : {1.0, 2.0, 5.0}) {
        const double value = step * power;
        if (value < values_.low || value > values_.high) continue;
        out += Tick(value, absl::StrFormat("%g", value));
      }
    }
    return out;
  }

  Axis bytes_, values_;
};

std::string LegendEntry(int row, const std::string& name, const char* colour, bool dashed) {
  const double y = kTop + 12 + kLegendStep * row;
  const std::string look = absl::StrFormat("stroke=\"%s\" stroke-width=\"2.4\"%s", colour,
                                           dashed ? " stroke-dasharray=\"6 3\"" : "");
  return Line(kLegendLeft, y - 4, kLegendLeft + 26, y - 4, look) +
         Text(kNameLeft, y, name, {.size = 13, .colour = svg::kInk});
}

// For names of at most so many letters in the legend.
double WidthFor(size_t letters) {
  return std::max(kWidthMin, kNameLeft + kLetterWidth * static_cast<double>(letters));
}

}  // namespace

std::string Draw(BytesPlot plot) {
  for (BytesPlot::Series& series : plot.series) {
    std::sort(series.points.begin(), series.points.end(),
              [](const BytesPlot::Point& a, const BytesPlot::Point& b) {
                return a.bytes_percent < b.bytes_percent;
              });
  }
  const Picture picture(plot);
  std::string out =
      Text(kLeft, 34, plot.title, {.size = 20, .colour = svg::kInk, .weight = "bold"}) +
      Text(kLeft, 58, plot.subtitle, {.size = 13}) + picture.Axes(plot.value_name);
  int row = 0;
  size_t longest = 0;
  for (const BytesPlot::Across& across : plot.across) {
    out += picture.DrawAcross(across.at);
    out += LegendEntry(row++, across.name, svg::kInk, true);
  }
  const auto middle = static_cast<double>(plot.series.size()) / 2;
  const double spread = std::min(kSpread, kSpreadMax / std::max(middle, 1.0));
  for (size_t i = 0; i < plot.series.size(); ++i) {
    const BytesPlot::Series& series = plot.series[i];
    out += picture.DrawSeries(series, spread * (static_cast<double>(i) - middle));
    out += LegendEntry(row++, series.name, PolicyColour(series.policy), series.dashed);
    longest = std::max(longest, series.name.size());
  }
  return svg::Document(WidthFor(longest), kHeight, out);
}

}  // namespace palimpsest::cli
