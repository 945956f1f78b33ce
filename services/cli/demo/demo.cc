// SPDX-License-Identifier: Apache-2.0
// `palimpsest demo`: settings, processes, runs with their progress, and the report.
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/exit_codes.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/assets.h"
#include "services/cli/command.h"
#include "services/cli/demo/budgets.h"
#include "services/cli/demo/display.h"
#include "services/cli/demo/report.h"
#include "services/cli/demo/settings.h"
#include "services/cli/fleet.h"
#include "services/cli/progress.h"

namespace palimpsest::cli {
namespace {

constexpr std::chrono::milliseconds kFrameInterval{250};

FleetOptions FleetFor(const DemoSettings& settings, const std::string& model,
                      const std::vector<GridPoint>& points) {
  std::vector<std::string> policies;
  for (const GridPoint& point : points) {
    if (std::find(policies.begin(), policies.end(), point.spec.name) == policies.end()) {
      policies.push_back(point.spec.name);
    }
  }
  FleetOptions options = settings.fleet;
  options.model = model;
  options.name = "demo-worker";
  options.more = {"--policies", absl::StrJoin(policies, ",")};
  return options;
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
    KV_ASSIGN_OR_RETURN(std::vector<GridPoint> planned, MakeGrid(settings_.grid));
    KV_ASSIGN_OR_RETURN(const ProblemSet set, ChooseProblems(settings_.problems));
    KV_ASSIGN_OR_RETURN(const std::string model, FindModelFolder(settings_.model));
    KV_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(model));
    KV_ASSIGN_OR_RETURN(planned, WithBudgets(std::move(planned), set.problems, *tokenizer, model,
                                             PlanLagOf(settings_.fleet)));
    KV_ASSIGN_OR_RETURN(fleet_,
                        Fleet::Start(loop_, clock_.get(), FleetFor(settings_, model, planned)));
    Introduce(set, planned);
    for (const GridPoint& plan : planned) {
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
  void Introduce(const ProblemSet& set, const std::vector<GridPoint>& planned) {
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
    for (const GridPoint& plan : planned) {
      RunResult run;
      run.spec = plan.spec;
      run.bounded = plan.bounded;
      outline_.labels.push_back(Label(run));
    }
  }

  absl::Status Watch(const RunProgress& progress) {
    KV_RETURN_IF_ERROR(fleet_->CheckWorker());
    const std::string store = fleet_->StoreObituary();
    if (!store.empty() && !facts_.store_lost) {
      facts_.store_lost = true;
      progress_.Say(
          absl::StrCat("warning: ", store, ". Chains go on; the worker now plans by itself."));
    }
    progress_.Show(
        [&](const Terminal& terminal) { return DemoFrame(outline_, progress, terminal); },
        [&] { return DemoLine(progress); });
    return absl::OkStatus();
  }

  absl::Status WithObituary(const absl::Status& status) {
    progress_.End();
    const absl::Status why = fleet_->Explain(loop_, status);
    if (!absl::IsInternal(why)) return why;
    return absl::InternalError(
        absl::StrCat(why.message(), ". ", outline_.finished.size(), " of ", outline_.labels.size(),
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
  const bool only_budgets = !settings.grid.budget.empty() && table->origin("bytes") == "default";
  if (only_budgets) settings.grid.bytes.clear();
  return RunWithLoop([&](EventLoop& loop) {
    Demo demo(&loop, settings);
    const absl::Status status = demo.Run();
    return VerbEnd{status, demo.text(), demo.exit_code()};
  });
}

}  // namespace palimpsest::cli
