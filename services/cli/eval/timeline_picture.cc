// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/svg.h"
#include "services/cli/eval/picture.h"
#include "services/cli/eval/thoughts.h"
#include "services/cli/grid/picture_style.h"
#include "services/cli/render.h"

namespace palimpsest::cli {
namespace {

using svg::Box;
using svg::Line;
using svg::Text;

// Pixels.
constexpr double kPanelWidth = 420, kPanelHeight = 170;
constexpr double kLeft = 70, kColumnStep = 500, kHeader = 92, kRowStep = 262, kStrip = 12;
constexpr size_t kPanelsMax = 8;
constexpr double kTypicalPercent = 10;

struct Panel {
  const GridPoint* point = nullptr;
  const ChainRecord* record = nullptr;
};

// A step that cuts `range` into three to seven.
double TickStep(double range) {
  const double power = std::pow(10.0, std::floor(std::log10(std::max(range, 1.0))));
  const double ratio = range / power;
  return power * (ratio > 6 ? 2.0 : ratio > 3 ? 1.0 : ratio > 1.5 ? 0.5 : 0.2);
}

double BytesPercent(const ChainRecord& record) {
  return PercentOf(static_cast<double>(record.stats.footprint_byte_steps),
                   static_cast<double>(record.stats.full_byte_steps));
}

class PanelPicture {
 public:
  PanelPicture(const Panel& panel, double tokens_max, double left, double top)
      : panel_(panel), tokens_max_(tokens_max), left_(left), top_(top) {}

  std::string Draw() const { return absl::StrCat(Title(), Thoughts(), Curves(), Axes()); }

 private:
  double Bottom() const { return top_ + kPanelHeight; }
  double X(double tokens) const { return left_ + tokens / tokens_max_ * kPanelWidth; }
  double Y(double live) const { return Bottom() - live / tokens_max_ * kPanelHeight; }

  std::string Title() const {
    return Text(left_, top_ - 20, panel_.point->Label(),
                {.size = 15, .colour = svg::kInk, .weight = "bold"}) +
           Text(left_ + kPanelWidth, top_ - 20,
                absl::StrCat(panel_.record->verdict, ", ",
                             HumanPercent(BytesPercent(*panel_.record)), " of the bytes"),
                {.size = 12, .anchor = "end"});
  }

  // A strip over the panel: thoughts as the task knows them, or else as they were labelled.
  std::string Thoughts() const {
    std::string out = Box(left_, top_, kPanelWidth, kPanelHeight, "fill=\"#f5f7fa\"");
    double from = panel_.record->stats.prompt_tokens;
    for (const ThoughtRun& run : ParseThoughts(panel_.record->thoughts)) {
      out += Piece(from, from + run.words, run.kind);
      from += run.words;
    }
    return panel_.record->thoughts.empty() ? out + Labels() : out;
  }

  std::string Labels() const {
    std::string out;
    const std::string& timeline = panel_.record->stats.timeline;
    const double start = panel_.record->stats.prompt_tokens;
    const double window = WindowTokensOf(panel_.point->spec);
    // The worker tells the newest letters of a long chain.
    const double windows = std::floor((End() - start) / window);
    const double first = std::max(0.0, windows - static_cast<double>(timeline.size()));
    for (size_t i = 0; i < timeline.size(); ++i) {
      const double from = start + (first + static_cast<double>(i)) * window;
      out += Piece(from, from + window, timeline[i]);
    }
    return out;
  }

  std::string Piece(double from, double to, char kind) const {
    to = std::min(to, End());
    if (from >= to) return "";
    return Box(X(from), top_ - kStrip, X(to) - X(from), kStrip,
               absl::StrFormat("fill=\"%s\" fill-opacity=\"0.85\"", ThoughtColour(kind)));
  }

  double End() const { return panel_.record->stats.prompt_tokens + panel_.record->tokens; }

  std::string Curves() const {
    const char* colour = PolicyColour(panel_.point->spec.name);
    std::string points = absl::StrFormat("%.1f,%.1f ", X(0), Y(0));
    double last = 0;
    for (const ChainMoment& moment : panel_.record->moments) {
      absl::StrAppendFormat(&points, "%.1f,%.1f ", X(moment.tokens), Y(moment.live_tokens));
      last = moment.tokens;
    }
    return Line(X(0), Y(0), X(End()), Y(End()),
                "stroke=\"#1f2933\" stroke-width=\"1.2\" stroke-dasharray=\"5 4\"") +
           absl::StrFormat("<polygon points=\"%s%.1f,%.1f\" fill=\"%s\" fill-opacity=\"0.25\"/>\n",
                           points, X(last), Y(0), colour) +
           absl::StrFormat(
               "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", points,
               colour);
  }

  std::string Axes() const {
    const std::string look = absl::StrFormat("stroke=\"%s\" stroke-width=\"1\"", svg::kSoftInk);
    std::string out = Line(left_, Bottom(), left_ + kPanelWidth, Bottom(), look) +
                      Line(left_, top_, left_, Bottom(), look);
    const double step = TickStep(tokens_max_);
    for (double tokens = 0; tokens <= tokens_max_; tokens += step) {
      const std::string label = HumanCount(static_cast<uint64_t>(tokens));
      out += Line(X(tokens), Bottom(), X(tokens), Bottom() + 5, look);
      out += Text(X(tokens), Bottom() + 18, label, {.size = 11, .anchor = "middle"});
      out += Line(left_ - 5, Y(tokens), left_, Y(tokens), look);
      out += Text(left_ - 9, Y(tokens) + 4, label, {.size = 11, .anchor = "end"});
    }
    return out +
           Text(left_ + kPanelWidth / 2, Bottom() + 36, "tokens of the chain",
                {.anchor = "middle"}) +
           svg::UprightText(left_ - 56, top_ + kPanelHeight / 2, "live tokens of a lane",
                            {.anchor = "middle"});
  }

  const Panel panel_;
  const double tokens_max_, left_, top_;
};

// One a policy and formats: where there are many budgets, that of the share of bytes nearest to
// kTypicalPercent.
std::vector<Panel> PanelsOf(const std::vector<GridPoint>& points,
                            const std::vector<ChainRecord>& records) {
  std::vector<Panel> panels;
  for (const GridPoint& point : points) {
    for (const ChainRecord& record : records) {
      if (record.point != point.Key() || record.moments.empty()) continue;
      const auto same = std::find_if(panels.begin(), panels.end(), [&](const Panel& panel) {
        return SeriesName(*panel.point) == SeriesName(point);
      });
      if (same == panels.end()) {
        if (panels.size() < kPanelsMax) panels.push_back({&point, &record});
        continue;
      }
      const double now = std::abs(std::log(BytesPercent(*same->record) / kTypicalPercent));
      const double then = std::abs(std::log(BytesPercent(record) / kTypicalPercent));
      if (then < now) *same = {&point, &record};
    }
  }
  return panels;
}

}  // namespace

std::string DrawTimelines(const EvalHeader& header, const std::vector<GridPoint>& points,
                          const std::vector<ChainRecord>& records) {
  const std::vector<Panel> panels = PanelsOf(points, records);
  double tokens_max = 1;
  for (const Panel& panel : panels) {
    tokens_max =
        std::max<double>(tokens_max, panel.record->stats.prompt_tokens + panel.record->tokens);
  }
  const double rows = std::ceil(static_cast<double>(panels.size()) / 2);
  std::string out = Text(kLeft, 34, "One chain: tokens that stay alive while it is written",
                         {.size = 20, .colour = svg::kInk, .weight = "bold"});
  out += Text(kLeft, 58,
              absl::StrCat(header.model, "  ·  ",
                           panels.empty() ? "no chain was watched" : panels[0].record->problem,
                           "  ·  dashed: the full cache  ·  strip: kinds of thought"),
              {.size = 13});
  double x = kLeft;
  for (const auto& [kind, name] : {std::pair('R', "R reasoning"), std::pair('E', "E execution"),
                                   std::pair('T', "T transition")}) {
    out += Box(x, 72, 18, kStrip, absl::StrFormat("fill=\"%s\"", ThoughtColour(kind)));
    out += Text(x + 24, 82, name, {.colour = svg::kInk});
    x += 120;
  }
  for (size_t i = 0; i < panels.size(); ++i) {
    const double left = kLeft + kColumnStep * static_cast<double>(i % 2);
    const double top = kHeader + 34 + kRowStep * std::floor(static_cast<double>(i) / 2);
    out += PanelPicture(panels[i], tokens_max, left, top).Draw();
  }
  return svg::Document(kLeft + 2 * kColumnStep, kHeader + rows * kRowStep + 10, out);
}

}  // namespace palimpsest::cli
