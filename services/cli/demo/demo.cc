// SPDX-License-Identifier: Apache-2.0
// `palimpsest demo`: settings, processes, runs with their progress, and the report.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/exit_codes.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/assets.h"
#include "services/cli/command.h"
#include "services/cli/demo/display.h"
#include "services/cli/demo/fleet.h"
#include "services/cli/demo/report.h"
#include "services/cli/demo/settings.h"

namespace palimpsest::cli {
namespace {

constexpr std::chrono::milliseconds kFrameInterval{250};
constexpr std::chrono::seconds kLineInterval{5};
constexpr absl::string_view kShippedModel = "lab/reasoner/model";

// Progress on stderr: a block redrawn in place, or a line now and then.
class Progress {
 public:
  Progress(const Clock* clock, bool quiet) : clock_(clock), quiet_(quiet), block_(STDERR_FILENO) {}

  void Show(const DemoOutline& outline, const RunProgress& progress) {
    if (quiet_) return;
    const Terminal terminal = ProbeTerminal(STDERR_FILENO);
    if (terminal.live) {
      block_.Draw(terminal, DemoFrame(outline, progress, terminal));
      return;
    }
    const Clock::Time now = clock_->Now();
    if (now < next_line_) return;
    next_line_ = now + kLineInterval;
    WriteAll(STDERR_FILENO, DemoLine(progress) + "\n");
  }

  // A line that stays.
  void Say(absl::string_view line) {
    block_.Clear();
    WriteAll(STDERR_FILENO, absl::StrCat(line, "\n"));
  }
  void Note(absl::string_view line) {
    if (!quiet_) Say(line);
  }
  void End() { block_.Clear(); }

 private:
  const Clock* clock_;
  const bool quiet_;
  LiveBlock block_;
  Clock::Time next_line_{};
};

// The folder the tokenizer is read from, and a worker we start loads.
absl::StatusOr<std::string> ModelFolder(const DemoSettings& settings) {
  if (settings.model.empty()) return FindShipped(kShippedModel, "--model DIR");
  std::error_code error;
  if (std::filesystem::is_regular_file(settings.model + "/config.json", error)) {
    return settings.model;
  }
  return absl::NotFoundError(absl::StrCat(
      "--model ", Escaped(settings.model),
      ": holds no config.json, so it is no Hugging Face folder. Try lab/reasoner/model"));
}

class Demo {
 public:
  Demo(EventLoop* loop, const DemoSettings& settings)
      : loop_(loop),
        settings_(settings),
        clock_(NewSteadyClock()),
        progress_(clock_.get(), settings.quiet) {}

  absl::Status Run() {
    const Clock::Time deadline = clock_->Now() + settings_.timeout;
    KV_ASSIGN_OR_RETURN(const std::vector<PlannedRun> planned, PlanRuns(settings_));
    KV_ASSIGN_OR_RETURN(const ProblemSet set, ChooseProblems(settings_.problems));
    KV_ASSIGN_OR_RETURN(const std::string model, ModelFolder(settings_));
    KV_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(model));
    KV_ASSIGN_OR_RETURN(fleet_, Fleet::Start(loop_, clock_.get(), settings_, model));
    Introduce(set, planned);
    for (const PlannedRun& plan : planned) {
      RunOptions options{.spec = plan.spec,
                         .bounded = plan.bounded,
                         .batch = settings_.batch,
                         .max_new_tokens = settings_.max_new_tokens,
                         .seed = settings_.seed,
                         .interval = kFrameInterval,
                         .deadline = deadline};
      absl::StatusOr<RunResult> run =
          RunChains(loop_, clock_.get(), fleet_->worker(), *tokenizer, set.problems, options,
                    [this](const RunProgress& progress) { return Watch(progress); });
      if (!run.ok()) return WithObituary(run.status());
      outline_.finished.push_back(*std::move(run));
    }
    Finish();
    return absl::OkStatus();
  }

  // What to print once the children are gone.
  const std::string& text() const { return text_; }
  int exit_code() const { return facts_.store_lost ? kExitUnhealthy : kExitOk; }

 private:
  void Introduce(const ProblemSet& set, const std::vector<PlannedRun>& planned) {
    const WorkerStatus& worker = fleet_->worker()->first_status();
    facts_ = {.model = worker.model,
              .problem_source = set.source,
              .seed = settings_.seed,
              .lockstep = worker.lockstep,
              .store = worker.store != StoreLink::kNone,
              .verbose = settings_.verbose};
    outline_.title =
        absl::StrCat(set.source, ", ", worker.model.family, " ", worker.model.layers, " layers",
                     worker.lockstep ? ", lockstep" : "", facts_.store ? "" : ", no store");
    for (const PlannedRun& plan : planned) {
      RunResult run;
      run.spec = plan.spec;
      run.bounded = plan.bounded;
      outline_.labels.push_back(Label(run));
    }
  }

  absl::Status Watch(const RunProgress& progress) {
    const std::string obituary = fleet_->WorkerObituary();
    if (!obituary.empty()) return absl::UnavailableError("the connection is lost");
    const std::string store = fleet_->StoreObituary();
    if (!store.empty() && !facts_.store_lost) {
      facts_.store_lost = true;
      progress_.Say(
          absl::StrCat("warning: ", store, ". Chains go on; the worker now plans by itself."));
    }
    progress_.Show(outline_, progress);
    return absl::OkStatus();
  }

  // The process' own last words say more than a broken connection does.
  absl::Status WithObituary(const absl::Status& status) {
    progress_.End();
    if (absl::IsCancelled(status)) return status;
    // The connection breaks a moment before the process can be reaped.
    if (absl::IsUnavailable(status)) (void)loop_->Run(std::chrono::milliseconds(200));
    const std::string obituary = fleet_->WorkerObituary();
    if (obituary.empty()) return status;
    return absl::InternalError(
        absl::StrCat(obituary, ". ", outline_.finished.size(), " of ", outline_.labels.size(),
                     " runs were done; --problems 2 may show whether it is the load"));
  }

  void Finish() {
    progress_.End();
    const std::vector<RunResult>& runs = outline_.finished;
    // A chain that was lost is told of even where nobody reads the table.
    for (const RunResult& run : runs) {
      for (const ChainResult& chain : run.chains) {
        if (chain.end != ChainEnd::kError) continue;
        progress_.Say(absl::StrCat("warning: ", Label(run), ", problem ", Escaped(chain.problem.id),
                                   ": lost: ", chain.error));
      }
    }
    if (settings_.format == OutputFormat::kJson) {
      text_ = DemoJson(facts_, runs);
      return;
    }
    const Terminal terminal = ProbeTerminal(STDOUT_FILENO);
    text_ = absl::StrCat(outline_.title, "\n\n", DemoTable(facts_, runs, terminal.columns));
    for (const std::string& note : DemoNotes(facts_, runs)) {
      absl::StrAppend(&text_, "\n", Wrapped(note, terminal.columns, ""));
    }
  }

  EventLoop* loop_;
  const DemoSettings& settings_;
  std::unique_ptr<Clock> clock_;
  std::unique_ptr<Fleet> fleet_;
  DemoFacts facts_;
  DemoOutline outline_;
  std::string text_;
  Progress progress_;  // last: its destructor restores the terminal first
};

}  // namespace

int RunDemo(const std::vector<std::string>& arguments) {
  DemoSettings settings;
  const auto table = NewDemoSettingsTable(&settings);
  if (const std::optional<int> code = LoadVerbSettings(arguments, table.get())) return *code;
  int signal = 0;
  std::string text;
  const int code = WithEventLoop([&](EventLoop& loop) {
    Demo demo(&loop, settings);
    const absl::Status status = demo.Run();
    signal = loop.signal();
    text = demo.text();
    return status.ok() ? demo.exit_code() : Fail(status);
  });
  if (signal != 0) DieOf(signal);
  PrintResult(text);
  return code;
}

}  // namespace palimpsest::cli
