// SPDX-License-Identifier: Apache-2.0
#include "services/cli/demo/display.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace palimpsest::cli {
namespace {

constexpr int kLabelColumns = 8;  // "cache", "pool", "pages"
constexpr int kBarColumnsMax = 48;
constexpr int kNarrowColumns = 60;  // below, only what matters most is said
constexpr std::array<Style, kFormatCount> kFormatStyles = {
    Style::kFormat16, Style::kFormat8, Style::kFormat4, Style::kFormat2, Style::kFormat4};
constexpr std::array<char, kFormatCount> kFormatLetters = {'b', '8', '4', '2', 'i'};

void Append(StyledLine* line, const StyledLine& more) {
  line->insert(line->end(), more.begin(), more.end());
}

std::string Left(absl::string_view text, int width, bool utf8) {
  std::string out = Clipped(text, width, utf8);
  out.append(std::max(0, width - DisplayWidth(out)), ' ');
  return out;
}

bool IsNarrow(const Terminal& terminal) { return terminal.columns <= kNarrowColumns; }

// Problems differ at the end of their names.
std::string ShortName(const std::string& id, int width, bool utf8) {
  return Left(DisplayWidth(id) <= width || id.size() <= static_cast<size_t>(width)
                  ? id
                  : id.substr(id.size() - static_cast<size_t>(width)),
              width, utf8);
}

// Labels, a bar as wide as fits before `text`, and the text.
int BarColumns(const Terminal& terminal, absl::string_view text) {
  const int room = terminal.columns - 1 - kLabelColumns - 1 - DisplayWidth(text);
  return std::clamp(room, 4, kBarColumnsMax);
}

StyledLine Row(absl::string_view label, const StyledLine& bar, absl::string_view text) {
  StyledLine line = {{Style::kDim, Left(label, kLabelColumns, true)}};
  Append(&line, bar);
  line.push_back({Style::kPlain, absl::StrCat(" ", text)});
  return line;
}

int FinishedChains(const RunResult& run) {
  return static_cast<int>(std::count_if(run.chains.begin(), run.chains.end(),
                                        [](const ChainResult& chain) { return chain.finished; }));
}

std::string Remaining(const RunProgress& progress) {
  if (progress.tokens_per_second < 1 || progress.tokens_expected <= progress.tokens_generated) {
    return "";
  }
  const auto left = static_cast<double>(progress.tokens_expected - progress.tokens_generated);
  return absl::StrCat("about ", HumanSeconds(left / progress.tokens_per_second), " left");
}

StyledLine OutlineRow(const DemoOutline& outline, size_t i, const RunProgress& progress,
                      const Terminal& terminal) {
  const absl::string_view dot = terminal.utf8 ? " · " : ", ";
  const std::string name = Left(outline.labels[i], 17, terminal.utf8);
  if (i < outline.finished.size()) {
    const RunFigures figures = FiguresOf(outline.finished[i]);
    return {{Style::kGood, terminal.utf8 ? "✔ " : "* "},
            {Style::kPlain, name},
            {Style::kPlain, absl::StrFormat("%u/%u right", figures.right, figures.problems)},
            {Style::kDim, absl::StrCat(dot, "cache ", HumanPercent(figures.cache_mean_percent), dot,
                                       HumanCount(figures.tokens_generated), " tokens", dot,
                                       HumanSeconds(outline.finished[i].seconds))}};
  }
  if (i > outline.finished.size()) {
    return {{Style::kDim, absl::StrCat(terminal.utf8 ? "· " : "- ", name, "waits")}};
  }
  const size_t total = progress.run.chains.size();
  const int finished = FinishedChains(progress.run);
  StyledLine line = {
      {Style::kBold, absl::StrCat(terminal.utf8 ? "▸ " : "> ", name)},
      {Style::kPlain, absl::StrCat(finished, "/", total, " ended")},
      {Style::kPlain,
       absl::StrCat(dot, absl::StrFormat("%.0f", progress.tokens_per_second), " tokens/s")}};
  const std::string left = Remaining(progress);
  if (!left.empty()) line.push_back({Style::kDim, absl::StrCat(dot, left)});
  return line;
}

StyledLine CacheRow(const PoolStatus& pool, const Terminal& terminal) {
  const auto live = static_cast<double>(pool.footprint_bytes);
  const auto full = static_cast<double>(pool.full_bytes);
  const std::string text = absl::StrCat(
      HumanPercent(PercentOf(live, full)), "  ", HumanBytes(pool.footprint_bytes),
      IsNarrow(terminal) ? "" : absl::StrCat(" of ", HumanBytes(pool.full_bytes), " full bf16"));
  const StyledLine bar = Bar(full > 0 ? live / full : 0.0, BarColumns(terminal, text),
                             terminal.utf8, Style::kReasoning);
  return Row("cache", bar, text);
}

StyledLine PoolRow(const PoolStatus& pool, const Terminal& terminal) {
  const auto used = static_cast<double>(pool.used_bytes);
  const auto capacity = static_cast<double>(pool.capacity_bytes);
  const std::string text = absl::StrCat(
      HumanPercent(PercentOf(used, capacity)), "  ", HumanBytes(pool.used_bytes),
      IsNarrow(terminal) ? "" : absl::StrCat(" of ", HumanBytes(pool.capacity_bytes), " pool"));
  const StyledLine bar = Bar(capacity > 0 ? used / capacity : 0.0, BarColumns(terminal, text),
                             terminal.utf8, Style::kExecution);
  return Row("pool", bar, text);
}

StyledLine PagesRow(const PoolStatus& pool, const Terminal& terminal) {
  const auto total = static_cast<double>(
      std::accumulate(pool.pages_by_format.begin(), pool.pages_by_format.end(), uint64_t{0}));
  std::vector<Share> shares;
  StyledLine legend;
  int width = 0;
  for (int i = kFormatCount - 1; i >= 0; --i) {
    if (pool.pages_by_format[i] == 0) continue;
    const double share = static_cast<double>(pool.pages_by_format[i]) / total;
    shares.push_back({share, kFormatStyles[i], kFormatLetters[i]});
    const std::string text =
        absl::StrFormat("  %s %.0f %%", std::string(Name(static_cast<Format>(i))), 100 * share);
    legend.push_back({kFormatStyles[i], text});
    width += DisplayWidth(text);
  }
  if (legend.empty()) legend = {{Style::kDim, "  none yet"}}, width = 10;
  StyledLine line = {{Style::kDim, Left("pages", kLabelColumns, true)}};
  const int room = terminal.columns - 1 - kLabelColumns - width;
  Append(&line, StackedBar(shares, std::clamp(room, 4, kBarColumnsMax), terminal));
  Append(&line, legend);
  return line;
}

// One chain: what it is, how far it is, what it holds, how it thinks.
StyledLine ChainRow(const ChainResult& chain, const ChainStatus* live, const Terminal& terminal) {
  const int width = terminal.columns - 1;
  const bool wide = !IsNarrow(terminal);
  const int name_columns = wide ? 13 : 4;
  const std::string name =
      absl::StrCat(ShortName(chain.problem.id, name_columns - 1, terminal.utf8), " ");
  if (chain.finished) {
    const bool right = chain.verdict == Verdict::kRight;
    const absl::string_view mark =
        right ? (terminal.utf8 ? "✔" : "+") : (terminal.utf8 ? "✘" : "x");
    StyledLine line = {
        {right ? Style::kGood : Style::kBad, absl::StrCat(mark, " ", name)},
        {Style::kPlain, absl::StrFormat("%6s tok ", HumanCount(chain.tokens.size()))}};
    if (wide) {
      line.push_back(
          {Style::kDim,
           absl::StrFormat("%-20s", right ? "right" : std::string(Name(chain.verdict)))});
    }
    Append(&line,
           Timeline(chain.stats.timeline, width - name_columns - (wide ? 33 : 13), terminal.utf8));
    return line;
  }
  if (live == nullptr) {
    return {{Style::kDim, absl::StrCat("  ", name, chain.request == 0 ? "not sent" : "waits")}};
  }
  StyledLine line = {{Style::kPlain, absl::StrCat("  ", name)},
                     {Style::kPlain, absl::StrFormat("%6s tok ", HumanCount(live->tokens))}};
  if (wide) {
    const double percent = PercentOf(static_cast<double>(live->footprint_bytes),
                                     static_cast<double>(live->full_bytes));
    line.push_back({Style::kDim, absl::StrFormat("%5s live %8s  ", HumanCount(live->live_tokens),
                                                 HumanPercent(percent))});
  }
  Append(&line, Timeline(absl::StrCat(live->timeline), width - name_columns - (wide ? 33 : 13),
                         terminal.utf8));
  return line;
}

// Running chains first, then the newest ended, then the waiting ones: when rows are short, what
// moves is what is seen.
std::vector<size_t> DisplayOrder(const RunResult& run,
                                 const std::map<uint64_t, const ChainStatus*>& live) {
  std::vector<size_t> order(run.chains.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto rank = [&](size_t i) {
    const ChainResult& chain = run.chains[i];
    if (chain.finished) return 1;
    return live.count(chain.request) > 0 ? 0 : 2;
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return rank(a) < rank(b); });
  return order;
}

}  // namespace

std::vector<StyledLine> DemoFrame(const DemoOutline& outline, const RunProgress& progress,
                                  const Terminal& terminal) {
  std::vector<StyledLine> lines;
  lines.push_back({{Style::kBold, "palimpsest demo"},
                   {Style::kDim, absl::StrCat(terminal.utf8 ? " · " : ", ", outline.title)}});
  for (size_t i = 0; i < outline.labels.size(); ++i) {
    lines.push_back(OutlineRow(outline, i, progress, terminal));
  }
  lines.push_back({});
  lines.push_back(CacheRow(progress.worker.pool, terminal));
  lines.push_back(PagesRow(progress.worker.pool, terminal));
  lines.push_back(PoolRow(progress.worker.pool, terminal));
  lines.push_back({{Style::kDim, Left("thought", kLabelColumns, true)},
                   {Style::kReasoning, "R"},
                   {Style::kDim, " reasoning  "},
                   {Style::kExecution, "E"},
                   {Style::kDim, " execution  "},
                   {Style::kTransition, "T"},
                   {Style::kDim, " transition"}});
  std::map<uint64_t, const ChainStatus*> live;
  for (const ChainStatus& chain : progress.worker.chains) live[chain.request] = &chain;
  const std::vector<size_t> order = DisplayOrder(progress.run, live);
  // The last line of a terminal stays free for the cursor; one more says what is not shown.
  const size_t room =
      static_cast<size_t>(std::max<int>(1, terminal.rows - 1 - static_cast<int>(lines.size())));
  const size_t shown = order.size() <= room ? order.size() : std::max<size_t>(room - 1, 1);
  for (size_t i = 0; i < shown; ++i) {
    const ChainResult& chain = progress.run.chains[order[i]];
    const auto found = live.find(chain.request);
    lines.push_back(ChainRow(chain, found == live.end() ? nullptr : found->second, terminal));
  }
  if (shown < order.size()) {
    lines.push_back({{Style::kDim, absl::StrCat("  and ", order.size() - shown, " more")}});
  }
  return lines;
}

std::string DemoLine(const RunProgress& progress) {
  const PoolStatus& pool = progress.worker.pool;
  const std::string left = Remaining(progress);
  return absl::StrCat(Label(progress.run), ": ", FinishedChains(progress.run), "/",
                      progress.run.chains.size(), " chains ended, ",
                      HumanCount(progress.tokens_generated), " tokens, ",
                      absl::StrFormat("%.0f", progress.tokens_per_second), " tokens/s, cache ",
                      HumanPercent(PercentOf(static_cast<double>(pool.footprint_bytes),
                                             static_cast<double>(pool.full_bytes))),
                      " of full bf16", left.empty() ? "" : ", ", left);
}

}  // namespace palimpsest::cli
