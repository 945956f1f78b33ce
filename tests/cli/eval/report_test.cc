// SPDX-License-Identifier: Apache-2.0
// What people and scripts read of an evaluation, as text to be reviewed: tests/cli/golden.
#include "services/cli/eval/report.h"

#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/cli/eval/picture.h"
#include "tests/cli/eval/example.h"
#include "tests/cli/golden.h"

namespace palimpsest::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

std::vector<PointFigures> Figures(const Example& example) {
  return FiguresOf(example.header, example.points, example.records, {{example.points[3].Key(), 2}});
}

TEST(EvalReport, TheTableAndItsNotes) {
  const Example example;
  ExpectGolden(
      "eval_table.txt",
      absl::StrCat(EvalTable(Figures(example), 120), "\n",
                   absl::StrJoin(EvalNotes(example.header, Figures(example)), "\n"), "\n"));
}

TEST(EvalReport, JsonLines) {
  const Example example;
  ExpectGolden("eval.jsonl", EvalJsonLines(example.header, Figures(example)));
}

TEST(EvalReport, NothingIsSaidOfWhatIsWell) {
  Example example;
  example.points.resize(2);
  example.points[1].target_percent = 10;
  EXPECT_TRUE(
      EvalNotes(example.header, FiguresOf(example.header, example.points, example.records, {}))
          .empty());
}

TEST(EvalPicture, HasALineAPolicyAndTheFullCache) {
  const Example example;
  const std::string svg = DrawAccuracy(example.header, Figures(example));
  EXPECT_THAT(svg, HasSubstr(">thinkv</text>"));
  EXPECT_THAT(svg, HasSubstr(">window</text>"));
  EXPECT_THAT(svg, HasSubstr(">full cache, bf16</text>"));
  EXPECT_THAT(svg, testing::EndsWith("</svg>\n"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(EvalPicture, OneChainHasAPanelAPolicy) {
  const Example example;
  const std::string svg = DrawTimelines(example.header, example.points, example.records);
  for (const char* const label : {"full", "thinkv k=900", "window k=64"}) {
    EXPECT_THAT(svg, HasSubstr(absl::StrCat(">", label, "</text>")));
  }
  EXPECT_THAT(svg, Not(HasSubstr(">thinkv k=300</text>")));  // farther from a typical share
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(EvalPicture, OfNothingIsEmptyAndWhole) {
  const EvalHeader header = ExampleHeader();
  EXPECT_THAT(DrawAccuracy(header, {}), testing::EndsWith("</svg>\n"));
  EXPECT_THAT(DrawTimelines(header, {}, {}), HasSubstr("no chain was watched"));
}

}  // namespace
}  // namespace palimpsest::cli
