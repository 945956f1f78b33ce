// SPDX-License-Identifier: Apache-2.0
// What people and scripts read, as text to be reviewed: tests/cli/golden.
#include "services/cli/demo/report.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "services/cli/demo/display.h"
#include "services/cli/render.h"
#include "services/cli/status/report.h"
#include "tests/cli/golden.h"

namespace palimpsest::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

ChainResult Chain(int i, Verdict verdict, uint64_t mean_percent) {
  ChainResult chain;
  chain.problem.id = absl::StrCat("heldout-00", i);
  chain.problem.chain_tokens = 1000;
  chain.request = 10 + i;
  chain.finished = true;
  chain.end = verdict == Verdict::kUnfinished ? ChainEnd::kLength : ChainEnd::kStop;
  chain.verdict = verdict;
  chain.tokens.assign(900 + i, 7);
  chain.seconds = 2.5;
  chain.stats.prompt_tokens = 10;
  chain.stats.new_tokens = 900 + i;
  chain.stats.footprint_byte_steps = mean_percent * 10'000;
  chain.stats.full_byte_steps = 1'000'000;
  chain.stats.footprint_bytes_peak = mean_percent * 4096 + 4096;
  chain.stats.full_bytes_end = 409'600;
  chain.stats.plans_applied = 7;
  chain.stats.plan_lag_seconds_sum = 0.014;
  chain.stats.plan_lag_seconds_max = 0.0051;
  chain.stats.plan_lag_tokens_max = 16;
  chain.stats.plan_hash = 99;
  chain.stats.timeline = "RRETRRE";
  return chain;
}

RunResult MakeRun(const std::string& policy, uint32_t budget, uint64_t percent, Verdict last) {
  RunResult run;
  run.spec.name = policy;
  run.spec.budget_tokens = budget;
  run.bounded = policy != "full";
  run.chains = {Chain(0, Verdict::kRight, percent), Chain(1, last, percent)};
  run.seconds = 4.0;
  run.pool_used_byte_steps = percent * 104;
  run.pool_full_byte_steps = 10'000;
  run.pool_used_bytes_peak = 1 << 20;
  return run;
}

std::vector<RunResult> Runs() {
  return {MakeRun("full", 1 << 24, 101, Verdict::kRight),
          MakeRun("thinkv", 1024, 31, Verdict::kRight),
          MakeRun("thinkv", 512, 12, Verdict::kUnfinished)};
}

DemoFacts Facts() {
  DemoFacts facts;
  facts.model = {.family = "llama",
                 .path = "lab/reasoner/model",
                 .synthetic = false,
                 .layers = 8,
                 .kv_heads = 2,
                 .head_dim = 64,
                 .vocab_size = 128,
                 .max_positions = 16384};
  facts.problem_source = "2 held-out problems";
  facts.seed = 1;
  facts.store = true;
  facts.verbose = true;
  return facts;
}

std::string Plain(const std::vector<StyledLine>& lines, int columns) {
  std::string text;
  for (const StyledLine& line : lines) absl::StrAppend(&text, Rendered(line, columns, false), "\n");
  return text;
}

TEST(DemoReport, TheTableReadsAsReviewed) {
  std::string text = DemoTable(Facts(), Runs(), 100);
  for (const std::string& note : DemoNotes(Facts(), Runs())) text += Wrapped(note, 100, "");
  ExpectGolden("demo_table.txt", text);
}

TEST(DemoReport, ANarrowTerminalGetsAnotherShapeAndNoLongLine) {
  DemoFacts facts = Facts();
  facts.verbose = false;
  for (const int columns : {24, 40, 60, 80}) {
    std::istringstream lines(DemoTable(facts, Runs(), columns));
    for (std::string line; std::getline(lines, line);) {
      EXPECT_LE(DisplayWidth(line), columns) << line;
    }
  }
}

TEST(DemoReport, TheJsonReadsAsReviewed) { ExpectGolden("demo.json", DemoJson(Facts(), Runs())); }

TEST(DemoReport, NotesSayWhatABudgetCosts) {
  const std::vector<std::string> notes = DemoNotes(Facts(), Runs());
  EXPECT_THAT(notes.front(), HasSubstr("thinkv k=1024 had 2 of 2 right"));
  EXPECT_THAT(notes.front(), HasSubstr("as many as the full cache"));
  EXPECT_THAT(notes.front(), HasSubstr("loses accuracy"));
}

TEST(DemoReport, AChainThatNeverEndedIsLost) {
  RunResult run = MakeRun("full", 1 << 24, 100, Verdict::kRight);
  run.chains[0].end = ChainEnd::kError;
  run.chains[0].error = "the pool is full";
  run.chains[0].verdict = Verdict::kNoAnswer;
  const RunFigures figures = FiguresOf(run);
  EXPECT_EQ(figures.lost, 1u);
  EXPECT_EQ(figures.right, 1u);
  EXPECT_DOUBLE_EQ(figures.accuracy, 0.5);
}

TEST(DemoReport, NothingMeasuredIsNullAndNotZero) {
  RunResult run;
  run.spec.name = "full";
  const auto json = nlohmann::json::parse(DemoJson(Facts(), {run}));
  EXPECT_TRUE(json["runs"][0]["cache_mean_percent"].is_null());
  EXPECT_TRUE(json["runs"][0]["pool_mean_percent"].is_null());
}

TEST(DemoReport, EqualTokensGiveEqualHashes) {
  const RunFigures a = FiguresOf(MakeRun("thinkv", 512, 12, Verdict::kRight));
  RunResult other = MakeRun("thinkv", 512, 12, Verdict::kRight);
  EXPECT_EQ(FiguresOf(other).tokens_hash, a.tokens_hash);
  other.chains[1].tokens[5] = 8;
  EXPECT_NE(FiguresOf(other).tokens_hash, a.tokens_hash);
}

TEST(DemoFrame, FitsEveryTerminal) {
  RunResult run = MakeRun("thinkv", 512, 12, Verdict::kRight);
  run.chains[1].finished = false;
  WorkerStatus worker;
  worker.pool = {.capacity_bytes = 1 << 28,
                 .used_bytes = 1 << 22,
                 .page_bytes = 1 << 21,
                 .footprint_bytes = 1 << 20,
                 .full_bytes = 1 << 24,
                 .pages_by_format = {1, 0, 6, 3},
                 .used_byte_steps = 0,
                 .full_byte_steps = 0};
  ChainStatus chain;
  chain.request = 11;
  chain.tokens = 12'345;
  chain.timeline = std::string(300, 'R') + "ET";
  worker.chains = {chain};
  const RunProgress progress{.run = run,
                             .worker = worker,
                             .tokens_generated = 1234,
                             .tokens_expected = 2000,
                             .tokens_per_second = 500};
  DemoOutline outline;
  outline.title = "2 held-out problems, llama 8 layers";
  outline.labels = {"thinkv k=512", "full"};
  Terminal terminal;
  terminal.utf8 = true;
  for (const int columns : {20, 40, 80, 400}) {
    for (const int rows : {4, 10, 60}) {
      terminal.columns = columns;
      terminal.rows = rows;
      for (const StyledLine& line : DemoFrame(outline, progress, terminal)) {
        const std::string text = Rendered(line, columns - 1, false);
        EXPECT_LT(DisplayWidth(text), columns);
        EXPECT_THAT(text, Not(HasSubstr("\x1b")));
      }
    }
  }
  terminal.columns = 80;
  terminal.rows = 24;
  ExpectGolden("demo_frame.txt", Plain(DemoFrame(outline, progress, terminal), 79));
  terminal.utf8 = false;
  for (const char c : Plain(DemoFrame(outline, progress, terminal), 79)) {
    ASSERT_GE(c, 0) << "a terminal without UTF-8 gets ASCII only";
  }
}

SystemReport System() {
  SystemReport report;
  StoreStatus store;
  store.version = std::string(BuildVersion());
  store.epoch = 41;
  store.uptime_ms = 90'000;
  store.partitions_owned = 1024;
  store.sessions = {{"decode-0", 7, 3, 120, 1000, 0, 0}};
  store.sequence_count = 3;
  store.plan_lag = {100, 2'000'000, 3'000'000, 9'000'000, 12'000'000};
  report.stores.emplace_back().status = store;
  report.stores.back().endpoint.port = 7401;
  WorkerStatus worker;
  worker.name = "decode-0";
  worker.version = std::string(BuildVersion());
  worker.uptime_seconds = 88;
  worker.model = Facts().model;
  worker.store = StoreLink::kConnected;
  worker.store_endpoint = "127.0.0.1:7401";
  worker.running = 3;
  worker.pool.capacity_bytes = 1 << 28;
  worker.pool.used_bytes = 1 << 26;
  worker.pool.footprint_bytes = 5;
  worker.pool.full_bytes = 100;
  worker.default_policy = DefaultSpec("anticipate").value();
  worker.keys_rotated = true;
  report.workers.emplace_back().status = worker;
  report.workers.back().endpoint.port = 7501;
  report.workers.back().tokens_per_second = 1234;
  return report;
}

TEST(StatusReport, ReadsAsReviewed) {
  Terminal terminal;
  terminal.utf8 = true;
  terminal.columns = 110;
  ExpectGolden("status.txt", Plain(StatusLines(System(), terminal), 110));
  ExpectGolden("status.json", StatusJson(System(), true));
}

TEST(StatusReport, AnUnreachablePartIsAQuestionMarkAndAReason) {
  SystemReport report = System();
  report.workers.emplace_back().status = absl::UnavailableError("worker x: gone");
  report.workers.back().endpoint.port = 7601;
  EXPECT_THAT(Complaints(report), testing::ElementsAre("worker x: gone"));
  Terminal terminal;
  terminal.columns = 110;
  const std::string text = Plain(StatusLines(report, terminal), 110);
  EXPECT_THAT(text, testing::StartsWith("unhealthy"));
  EXPECT_THAT(text, HasSubstr("127.0.0.1:7601  ?"));
}

TEST(StatusReport, NamesWhatIsUnhealthy) {
  SystemReport report = System();
  report.stores[0].status->partitions_owned = 1000;
  report.stores[0].status->draining = true;
  report.stores[0].status->sessions[0].silent_ms = 2500;
  report.workers[0].status->store = StoreLink::kConnecting;
  EXPECT_EQ(Complaints(report).size(), 4u);
  report.workers[0].status->version = "0.0.9";
  EXPECT_EQ(Remarks(report).size(), 1u);
}

TEST(Render, NumbersReadWell) {
  EXPECT_EQ(HumanCount(0), "0");
  EXPECT_EQ(HumanCount(1'234'567), "1,234,567");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(4'300'000), "4.1 MiB");
  EXPECT_EQ(HumanSeconds(0.00085), "850 us");
  EXPECT_EQ(HumanSeconds(0.0125), "12.5 ms");
  EXPECT_EQ(HumanSeconds(185), "3 min 05 s");
  EXPECT_EQ(HumanSeconds(7800), "2 h 10 min");
  EXPECT_EQ(HumanPercent(9.871), "9.87 %");
  EXPECT_EQ(HumanPercent(PercentOf(1, 0)), "-");
}

TEST(Render, TimelinesShowTheNewest) {
  const StyledLine line = Timeline("RRRETT", 4, false);
  EXPECT_EQ(Rendered(line, 80, false), "<ETT");
  EXPECT_THAT(Rendered(line, 80, true), HasSubstr("\x1b[35mTT\x1b[0m"));
}

TEST(Render, BarsFillTheirWidth) {
  for (const double share : {-1.0, 0.0, 0.33, 1.0, 7.0}) {
    int width = 0;
    for (const Span& span : Bar(share, 12, true, Style::kPlain)) width += DisplayWidth(span.text);
    EXPECT_EQ(width, 12);
  }
}

TEST(Render, ClipsAtCharactersAndNotBytes) {
  EXPECT_EQ(Clipped("Grüße", 4, true), "Grü…");
  EXPECT_EQ(Clipped("abc", 3, true), "abc");
  EXPECT_EQ(DisplayWidth("漢字"), 4);
}

}  // namespace
}  // namespace palimpsest::cli
