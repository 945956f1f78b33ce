// SPDX-License-Identifier: Apache-2.0
#include "services/cli/demo/settings.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/assets.h"
#include "services/cli/grid/settings.h"

namespace palimpsest::cli {
namespace {

constexpr absl::string_view kHeldOut = "lab/reasoner/problems/heldout.jsonl";
constexpr uint32_t kChainTokensMin = 1000;
constexpr uint32_t kChainTokensMax = 3000;

absl::Status Wrong(absl::string_view message) { return absl::InvalidArgumentError(message); }

absl::StatusOr<ProblemSet> FirstHeldOut(uint32_t count) {
  KV_ASSIGN_OR_RETURN(const std::string path, FindShipped(kHeldOut, "--problems FILE"));
  KV_ASSIGN_OR_RETURN(const std::vector<CountdownProblem> all, ReadProblems(path));
  ProblemSet set;
  for (const CountdownProblem& problem : all) {
    const bool fits =
        problem.chain_tokens >= kChainTokensMin && problem.chain_tokens <= kChainTokensMax;
    if (fits && set.problems.size() < count) set.problems.push_back(problem);
  }
  if (set.problems.size() < count) {
    return Wrong(absl::StrCat("--problems ", count, ": only ", set.problems.size(),
                              " held-out problems have chains of ", kChainTokensMin, " to ",
                              kChainTokensMax, " tokens. For others give the file: --problems ",
                              path));
  }
  set.source = absl::StrCat(count, " held-out problem", count == 1 ? "" : "s");
  return set;
}

}  // namespace

std::unique_ptr<SettingsTable> NewDemoSettingsTable(DemoSettings* settings) {
  auto table = std::make_unique<SettingsTable>(
      "palimpsest demo",
      "Starts a store shard and a decode worker, has a small reasoning model solve problems whose "
      "answers can be checked, and shows what each cache policy saves and costs.");
  AddGridSettings(table.get(), &settings->grid);
  table->Section("What to run");
  table->Text("problems", &settings->problems,
              {"How many of the held-out problems with chains of 1,000 to 3,000 tokens, or a file "
               "of problems.",
               "lab/reasoner/problems/short.jsonl"});
  table->Text(
      "model", &settings->model,
      {"Hugging Face folder of the reasoner; by default the shipped one.", "lab/reasoner/model"});
  table->Integer("max_new_tokens", &settings->max_new_tokens, {0, limits::kPositionMax},
                 "Where a chain is cut off; 0: a quarter beyond its reference chain.");
  table->Integer("batch", &settings->batch, {0, limits::kRequestsPerBatchMax},
                 "Chains in flight; 0: all at once.");
  table->Integer("seed", &settings->seed, {0, INT64_MAX}, "Seed of the requests.");
  table->Section("Where to run");
  table->Text("worker", &settings->fleet.worker,
              {"A running worker to use instead of starting one.", "127.0.0.1:7501"});
  table->Switch("store", &settings->fleet.store,
                "Start a shard; without it the worker plans by itself.");
  table->Switch("lockstep", &settings->fleet.lockstep,
                "The worker waits for every plan: slower, and equal runs give equal tokens.");
  table->Text("calibration", &settings->fleet.calibration,
              {"File made by `palimpsest calibrate`; by default calibration.json of the model, "
               "where there is one.",
               "calibration.json"});
  table->Choice(
      "rotate_keys", &settings->fleet.rotate_keys, KeyRotationChoices(),
      "Whether keys are stored after a Hadamard transform of each head; auto: as a worker does "
      "by itself.");
  table->Integer("threads", &settings->fleet.threads, {0, 1024},
                 "Of the worker; 0 takes every core.");
  table->Bytes("pool_bytes", &settings->fleet.pool_bytes, {1ull << 20, 1ull << 44},
               {"Size of the worker's page pool.", "1GiB"});
  table->Duration("timeout", &settings->timeout, {std::chrono::seconds(1), std::chrono::hours(24)},
                  {"Gives up after this time, with exit code 4.", "15m"});
  table->Section("Output");
  table->Choice<OutputFormat>("format", &settings->format,
                              {{"table", OutputFormat::kTable}, {"json", OutputFormat::kJson}},
                              "On stdout; progress and messages go to stderr.");
  table->Switch("verbose", &settings->verbose, "The result of every problem, too.");
  table->Switch("quiet", &settings->quiet, "No progress.");
  const auto attached = [settings] { return !settings->fleet.worker.empty(); };
  table->Conflict(
      {"worker", "store"}, [=] { return attached() && !settings->fleet.store; },
      "a running worker has its store already");
  table->Conflict(
      {"worker", "lockstep"}, [=] { return attached() && settings->fleet.lockstep; },
      "lockstep is a running worker's own setting: start it with --lockstep");
  table->Conflict(
      {"worker", "calibration"}, [=] { return attached() && !settings->fleet.calibration.empty(); },
      "a running worker has its calibration already");
  table->Conflict(
      {"worker", "rotate_keys"},
      [=] { return attached() && settings->fleet.rotate_keys != KeyRotation::kAuto; },
      "a running worker stores its keys as it was started");
  table->Example("", "12 problems: the full cache, and two policies in a tenth of its bytes");
  table->Example("--policy full --format json", "one JSON document with the accuracy");
  table->Example("--policy anticipate,thinkv --bytes 5,20 --problems 4 --verbose",
                 "two policies in little and in more room, every chain's result");
  table->Example("--worker 127.0.0.1:7501 --policy thinkv --budget 512",
                 "use a worker that is running");
  return table;
}

absl::StatusOr<ProblemSet> ChooseProblems(const std::string& text) {
  uint32_t count = 0;
  if (absl::SimpleAtoi(text, &count)) {
    if (count > 0) return FirstHeldOut(count);
    return Wrong("--problems: expected at least 1");
  }
  absl::StatusOr<std::vector<CountdownProblem>> problems = ReadProblems(text);
  if (!problems.ok()) return Wrong(absl::StrCat("--problems: ", problems.status().message()));
  const std::string source = absl::StrCat(problems->size(), " problem",
                                          problems->size() == 1 ? "" : "s", " of ", Escaped(text));
  return ProblemSet{source, *std::move(problems)};
}

}  // namespace palimpsest::cli
