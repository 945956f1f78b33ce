// SPDX-License-Identifier: Apache-2.0
#include "common/policy/calibration_picture.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/svg.h"

namespace palimpsest {
namespace {

using svg::Box;
using svg::Line;
using svg::Text;

// Pixels.
constexpr double kWidth = 1000;
constexpr double kHeader = 118;
constexpr double kPanelWidth = 420;
constexpr double kPanelHeight = 190;
constexpr double kPanelLeft = 62;
constexpr double kColumnStep = 486;
constexpr double kRowStep = 272;
constexpr double kPanelTop = 34;  // within its row, below the panel's title
constexpr size_t kPanelsMax = 8;
constexpr size_t kNearestMax = 4;        // panels when no layer was chosen
constexpr size_t kWarningColumns = 150;  // letters in a line of the warning

constexpr char kCurve[] = "#102a43";
constexpr char kPlain[] = "#9fb3c8";

struct Kind {
  const char* letter;
  const char* meaning;
  const char* colour;
};
// From dense to sparse, as they lie on the axis. The colours stay apart for the colour-blind.
constexpr std::array<Kind, 3> kKinds = {{{"E", "execution (dense)", "#0072b2"},
                                         {"R", "reasoning", "#e69f00"},
                                         {"T", "transition (sparse)", "#009e73"}}};

// The layers to show: L*, or else those with most three-mode and then two-mode prompts.
std::vector<uint32_t> LayersToShow(const Calibration& c) {
  std::vector<uint32_t> shown = c.sparsity_layers;
  if (shown.empty()) {
    shown.resize(c.layers.size());
    std::iota(shown.begin(), shown.end(), 0u);
    std::stable_sort(shown.begin(), shown.end(), [&c](uint32_t a, uint32_t b) {
      const ModeCounts& left = c.layers[a].prompts_by_modes;
      const ModeCounts& right = c.layers[b].prompts_by_modes;
      return left[2] != right[2] ? left[2] > right[2] : left[1] > right[1];
    });
  }
  shown.resize(std::min(shown.size(), c.sparsity_layers.empty() ? kNearestMax : kPanelsMax));
  std::sort(shown.begin(), shown.end());
  return shown;
}

// The part of [0, 1] that has data in any shown layer, widened to tenths.
struct Range {
  double low = 0.0;
  double high = 1.0;
};

Range DataRange(const Calibration& c, const std::vector<uint32_t>& shown) {
  const double bins = c.settings.histogram_bins;
  double low = 1.0;
  double high = 0.0;
  for (const uint32_t layer : shown) {
    const std::vector<uint32_t>& histogram = c.layers[layer].histogram;
    for (size_t i = 0; i < histogram.size(); ++i) {
      if (histogram[i] == 0) continue;
      low = std::min(low, static_cast<double>(i) / bins);
      high = std::max(high, static_cast<double>(i + 1) / bins);
    }
  }
  if (low >= high) return {};
  return {std::floor(low * 10.0) / 10.0, std::ceil(high * 10.0) / 10.0};
}

// One layer's panel. Its coordinates are pixels of the document.
class Panel {
 public:
  Panel(const Calibration& c, uint32_t layer, Range range, double left, double top)
      : c_(c), number_(layer), layer_(c.layers[layer]), range_(range), left_(left), top_(top) {
    steps_ = std::accumulate(layer_.histogram.begin(), layer_.histogram.end(), 0.0);
    for (const uint32_t count : layer_.histogram) top_value_ = std::max(top_value_, Height(count));
    for (const double value : layer_.density) top_value_ = std::max(top_value_, value);
    top_value_ = top_value_ > 0.0 ? top_value_ * 1.12 : 1.0;
  }

  std::string Draw() const {
    return absl::StrCat(Title(), Bands(), Bars(), Curve(), Thresholds(), Axes());
  }

 private:
  double Bottom() const { return top_ + kPanelHeight; }
  double X(double value) const {
    return left_ + (value - range_.low) / (range_.high - range_.low) * kPanelWidth;
  }
  double ClampedX(double value) const { return std::clamp(X(value), left_, left_ + kPanelWidth); }
  double Y(double value) const { return Bottom() - value / top_value_ * kPanelHeight; }

  // A bin's height as a density, so that bars and curve share an axis.
  double Height(uint32_t count) const {
    return steps_ > 0.0 ? count / steps_ * c_.settings.histogram_bins : 0.0;
  }

  const char* ColourAt(double value) const {
    if (c_.theta.empty()) return kPlain;
    return kKinds[value < c_.theta[0] ? 0 : value < c_.theta[1] ? 1 : 2].colour;
  }

  std::string Title() const {
    const ModeCounts& by = layer_.prompts_by_modes;
    const std::string facts =
        c_.theta.empty()
            ? absl::StrFormat("prompts with 1, 2, 3, more modes: %d, %d, %d, %d", by[0], by[1],
                              by[2], by[3])
            : absl::StrFormat("3 modes in %d %% of prompts · valley depth %.2f",
                              std::lround(layer_.three_mode_share * 100.0), layer_.valley_depth);
    return Text(left_, top_ - 12, absl::StrCat("Layer ", number_),
                {.size = 15, .colour = svg::kInk, .weight = "bold"}) +
           Text(left_ + kPanelWidth, top_ - 12, facts, {.size = 11, .anchor = "end"});
  }

  // The classes as tinted grounds, named at the top where there is room.
  std::string Bands() const {
    if (c_.theta.empty()) return Box(left_, top_, kPanelWidth, kPanelHeight, "fill=\"#f5f7fa\"");
    std::string out;
    const double edges[] = {range_.low, c_.theta[0], c_.theta[1], range_.high};
    for (size_t i = 0; i < kKinds.size(); ++i) {
      const double from = ClampedX(edges[i]);
      const double width = std::max(0.0, ClampedX(edges[i + 1]) - from);
      out += Box(from, top_, width, kPanelHeight,
                 absl::StrFormat("fill=\"%s\" fill-opacity=\"0.09\"", kKinds[i].colour));
      if (width < 14) continue;
      out += Text(from + width / 2, top_ + 17, kKinds[i].letter,
                  {.size = 14, .colour = kKinds[i].colour, .anchor = "middle", .weight = "bold"});
    }
    return out;
  }

  std::string Bars() const {
    std::string out;
    const double bins = c_.settings.histogram_bins;
    for (size_t i = 0; i < layer_.histogram.size(); ++i) {
      if (layer_.histogram[i] == 0) continue;
      const double from = static_cast<double>(i) / bins;
      const double y = Y(Height(layer_.histogram[i]));
      out += Box(X(from), y, X(from + 1.0 / bins) - X(from), Bottom() - y,
                 absl::StrFormat("fill=\"%s\" fill-opacity=\"0.55\"", ColourAt(from + 0.5 / bins)));
    }
    return out;
  }

  std::string Curve() const {
    std::string points;
    for (size_t i = 0; i < layer_.density.size(); ++i) {
      const double x = static_cast<double>(i) / static_cast<double>(layer_.density.size() - 1);
      if (x < range_.low - 1e-9 || x > range_.high + 1e-9) continue;
      absl::StrAppendFormat(&points, "%.2f,%.2f ", X(x), Y(layer_.density[i]));
    }
    return absl::StrFormat(
        "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", points,
        kCurve);
  }

  std::string Thresholds() const {
    std::string out;
    for (const float theta : c_.theta) {
      if (theta < range_.low || theta > range_.high) continue;
      out += Line(X(theta), top_, X(theta), Bottom(),
                  absl::StrFormat("stroke=\"%s\" stroke-width=\"1.6\" stroke-dasharray=\"5 4\"",
                                  svg::kInk));
    }
    return out;
  }

  std::string Axes() const {
    const std::string look = absl::StrFormat("stroke=\"%s\" stroke-width=\"1\"", svg::kSoftInk);
    std::string out = Line(left_, Bottom(), left_ + kPanelWidth, Bottom(), look) +
                      Line(left_, top_, left_, Bottom(), look);
    const double width = range_.high - range_.low;
    const double step = width > 0.55 ? 0.1 : width > 0.25 ? 0.05 : 0.02;
    for (int i = 0; i * step <= width + 1e-9; ++i) {
      const double x = X(range_.low + i * step);
      out += Line(x, Bottom(), x, Bottom() + 5, look);
      out +=
          Text(x, Bottom() + 18, absl::StrFormat("%.*f", step < 0.1 ? 2 : 1, range_.low + i * step),
               {.size = 11, .anchor = "middle"});
    }
    // Ticks at a round step that gives three to six of them.
    const double power = std::pow(10.0, std::floor(std::log10(top_value_)));
    const double ratio = top_value_ / power;
    const double tick = power * (ratio > 5.0 ? 2.0 : ratio > 2.5 ? 1.0 : 0.5);
    for (double value = 0.0; value <= top_value_; value += tick) {
      out += Line(left_ - 5, Y(value), left_, Y(value), look);
      out += Text(left_ - 9, Y(value) + 4, absl::StrFormat("%g", value),
                  {.size = 11, .anchor = "end"});
    }
    out += Text(left_ + kPanelWidth / 2, Bottom() + 36, "attention sparsity of a step",
                {.anchor = "middle"});
    const double x = left_ - 42;
    const double y = top_ + kPanelHeight / 2;
    return out + svg::UprightText(x, y, "density", {.anchor = "middle"});
  }

  const Calibration& c_;
  const uint32_t number_;
  const LayerCalibration& layer_;
  const Range range_;
  const double left_;
  const double top_;
  double steps_ = 0.0;
  double top_value_ = 0.0;
};

std::string Legend(const Calibration& c, double y) {
  std::string out;
  double x = kPanelLeft;
  const auto entry = [&](const std::string& mark, const std::string& text) {
    absl::StrAppend(&out, mark, Text(x + 24, y, text, {.colour = svg::kInk}));
    x += 38 + 6.6 * static_cast<double>(text.size());
  };
  const auto bar = [&](const char* colour) {
    return Box(x, y - 10, 18, 12, absl::StrFormat("fill=\"%s\" fill-opacity=\"0.6\"", colour));
  };
  const auto stroke = [&](absl::string_view look) { return Line(x, y - 4, x + 18, y - 4, look); };
  if (c.theta.empty()) {
    entry(bar(kPlain), "steps, one class (R)");
  } else {
    for (const Kind& kind : kKinds) {
      entry(bar(kind.colour), absl::StrCat(kind.letter, ": ", kind.meaning));
    }
  }
  entry(stroke(absl::StrFormat("stroke=\"%s\" stroke-width=\"2\"", kCurve)),
        "mean density over prompts");
  if (!c.theta.empty()) {
    entry(stroke(absl::StrFormat("stroke=\"%s\" stroke-width=\"1.6\" stroke-dasharray=\"5 4\"",
                                 svg::kInk)),
          absl::StrFormat("thresholds %.3f and %.3f", c.theta[0], c.theta[1]));
  }
  return out;
}

// Lines of whole words.
std::vector<std::string> Wrap(const std::string& text) {
  std::vector<std::string> lines;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (lines.empty() || lines.back().size() + 1 + word.size() > kWarningColumns) {
      lines.emplace_back(word);
    } else {
      absl::StrAppend(&lines.back(), " ", word);
    }
  }
  return lines;
}

}  // namespace

std::string DrawCalibration(const Calibration& calibration, absl::string_view model) {
  const std::vector<uint32_t> shown = LayersToShow(calibration);
  const Range range = DataRange(calibration, shown);
  const std::vector<std::string> warning = Wrap(calibration.warning);
  const double rows = std::ceil(static_cast<double>(shown.size()) / 2.0);
  const double panels_top = kHeader + 16 * static_cast<double>(warning.size());
  const double height = panels_top + rows * kRowStep + 6;

  const bool one_class = calibration.theta.empty();
  std::string out = Text(kPanelLeft, 34,
                         one_class ? "Attention sparsity: no three kinds of thought found"
                                   : "Attention sparsity tells three kinds of thought apart",
                         {.size = 20, .colour = svg::kInk, .weight = "bold"});
  out +=
      Text(kPanelLeft, 58,
           absl::StrFormat(
               "%s  ·  %d prompts, full cache  ·  %s %s", model, calibration.prompt_count,
               one_class ? "nearest of its layers:" : "chosen layers:", absl::StrJoin(shown, ", ")),
           {.size = 13});
  out += Legend(calibration, 86);
  for (size_t i = 0; i < warning.size(); ++i) {
    out += Text(kPanelLeft, 110 + 16 * static_cast<double>(i), warning[i],
                {.size = 11, .colour = "#b44d12"});
  }
  for (size_t i = 0; i < shown.size(); ++i) {
    const double left = kPanelLeft + kColumnStep * static_cast<double>(i % 2);
    const double top = panels_top + kRowStep * std::floor(static_cast<double>(i) / 2.0) + kPanelTop;
    out += Panel(calibration, shown[i], range, left, top).Draw();
  }
  return svg::Document(kWidth, height, out);
}

}  // namespace palimpsest
