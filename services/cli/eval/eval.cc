// SPDX-License-Identifier: Apache-2.0
// `palimpsest eval`: settings, grid, workers, chains with their progress, and the report.
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/build_info.h"
#include "common/base/exit_codes.h"
#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/assets.h"
#include "services/cli/command.h"
#include "services/cli/eval/picture.h"
#include "services/cli/eval/plan.h"
#include "services/cli/eval/report.h"
#include "services/cli/eval/results.h"
#include "services/cli/eval/runner.h"
#include "services/cli/eval/settings.h"
#include "services/cli/fleet.h"
#include "services/cli/progress.h"
#include "services/cli/render.h"

namespace palimpsest::cli {
namespace {

constexpr size_t kLostToldMax = 5;

FleetOptions FleetFor(const EvalSettings& settings, const std::string& model,
                      const std::vector<std::string>& policies) {
  FleetOptions options = settings.fleet;
  options.model = model;
  options.name = "eval-worker";
  options.more = {"--device",    settings.device,
                  "--batch-max", absl::StrCat(settings.batch),
                  "--rows-max",  absl::StrCat(settings.batch + 256),
                  "--policies",  absl::StrJoin(policies, ",")};
  if (!settings.codebook.empty()) {
    options.more.insert(options.more.end(), {"--codebook", settings.codebook});
  }
  return options;
}

class Eval {
 public:
  Eval(EventLoop* loop, const EvalSettings& settings)
      : loop_(loop),
        settings_(settings),
        clock_(NewSteadyClock()),
        progress_(clock_.get(), settings.quiet) {}

  absl::Status Run() {
    if (!settings_.run) {
      KV_RETURN_IF_ERROR(results_.Read(settings_.out));
      points_ = results_.points();
      return Report();
    }
    deadline_ = clock_->Now() + settings_.timeout;
    KV_ASSIGN_OR_RETURN(inputs_, LoadEvalInputs(settings_));
    points_ = inputs_.points;
    for (const std::string& note : inputs_.notes) progress_.Note(note);
    KV_RETURN_IF_ERROR(results_.Open(settings_.out, inputs_.header));
    for (const GridPoint& point : points_) KV_RETURN_IF_ERROR(results_.AddPoint(point));
    absl::Status status = RunGroups();
    progress_.End();
    if (absl::IsCancelled(status)) {
      progress_.Note(absl::StrCat(results_.records().size(), " chains are ",
                                  settings_.out.empty()
                                      ? "lost: --out FILE would have kept them"
                                      : "kept; the same command goes on from there"));
    }
    // Whoever runs out of time is told how far it got.
    if (!status.ok() && !absl::IsDeadlineExceeded(status)) return status;
    KV_RETURN_IF_ERROR(Report());
    return status;
  }

  // What to print once the children are gone.
  const std::string& text() const { return text_; }
  int exit_code() const { return lost_.empty() ? kExitOk : kExitFailed; }

 private:
  // Policies that take memory of every sequence have a worker of their own: on one for all, the
  // others would be charged for it.
  absl::Status RunGroups() {
    for (const WorkerGroup& group : GroupPoints(points_)) {
      std::vector<EvalJob> jobs = JobsOf(group);
      if (jobs.empty()) continue;
      KV_ASSIGN_OR_RETURN(
          const std::unique_ptr<Fleet> fleet,
          Fleet::Start(loop_, clock_.get(), FleetFor(settings_, inputs_.folder, group.policies)));
      KV_RETURN_IF_ERROR(CheckWorker(fleet->worker()->first_status()));
      EvalPlan plan{.points = points_,
                    .problems = inputs_.problems,
                    .jobs = std::move(jobs),
                    .sampling = inputs_.header.sampling,
                    .max_new_tokens = settings_.max_new_tokens,
                    .answer = settings_.answer,
                    // As many wait at the worker as run there, so that it never does.
                    .in_flight = 2 * size_t{settings_.batch},
                    .pictured = inputs_.pictured,
                    .deadline = deadline_};
      const absl::Status status = RunEvalChains(
          loop_, clock_.get(), fleet->worker(), *inputs_.tokenizer, plan,
          {.on_record = [this](ChainRecord record) { return Take(std::move(record)); },
           .on_lost = [this](const EvalJob& job, const std::string& why) { TakeLoss(job, why); },
           .on_progress = [&](const EvalProgress& progress) { return Watch(*fleet, progress); }});
      if (!status.ok()) {
        progress_.End();
        return fleet->Explain(loop_, status);
      }
    }
    return absl::OkStatus();
  }

  // What is still to be run, point by point. The longest chains first, for the last ones would run
  // in an ever emptier batch.
  std::vector<EvalJob> JobsOf(const WorkerGroup& group) const {
    std::vector<EvalJob> jobs;
    for (const size_t point : group.points) {
      const std::string key = points_[point].Key();
      for (const size_t problem : inputs_.order) {
        for (uint32_t sample = 0; sample < settings_.samples; ++sample) {
          if (!results_.Has(key, inputs_.problems[problem].id, sample)) {
            jobs.push_back({point, problem, sample});
          }
        }
      }
    }
    return jobs;
  }

  absl::Status CheckWorker(const WorkerStatus& worker) const {
    const CacheShape& shape = inputs_.costs.shape;
    const ModelInfo& model = worker.model;
    if (static_cast<int>(model.layers) != shape.layers ||
        static_cast<int>(model.kv_heads) != shape.kv_heads ||
        static_cast<int>(model.head_dim) != shape.head_dim) {
      return absl::FailedPreconditionError(
          absl::StrCat("worker ", settings_.fleet.worker, " serves another model (", model.path,
                       ") than the one its tokens are read with. Give --model its folder"));
    }
    if (worker.keys_rotated != inputs_.header.keys_rotated) {
      return absl::FailedPreconditionError(
          absl::StrCat("worker ", settings_.fleet.worker, " stores keys ",
                       worker.keys_rotated ? "rotated" : "as they are", ". Say so: --rotate-keys ",
                       worker.keys_rotated ? "on" : "off"));
    }
    return absl::OkStatus();
  }

  absl::Status Take(ChainRecord record) { return results_.Add(std::move(record)); }

  void TakeLoss(const EvalJob& job, const std::string& why) {
    if (lost_told_++ < kLostToldMax) progress_.Say(absl::StrCat("warning: lost: ", why));
    ++lost_[points_[job.point].Key()];
  }

  absl::Status Watch(Fleet& fleet, const EvalProgress& progress) {
    KV_RETURN_IF_ERROR(fleet.CheckWorker());
    const std::string store = fleet.StoreObituary();
    if (!store.empty()) return absl::InternalError(store);
    const double share =
        progress.jobs > 0 ? static_cast<double>(progress.done) / static_cast<double>(progress.jobs)
                          : 1.0;
    progress_.ShowBar("eval", share, [&] {
      return absl::StrCat(
          progress.done, "/", progress.jobs, " chains, ", points_[progress.point].Label(), ", ",
          HumanCount(static_cast<uint64_t>(progress.tokens_per_second)), " tokens/s",
          progress.seconds_left > 0
              ? absl::StrCat(", about ", HumanSeconds(progress.seconds_left), " left")
              : "");
    });
    return absl::OkStatus();
  }

  // Held against the full cache's chains of the file, even when that is not asked for now.
  std::vector<PointFigures> FiguresAskedFor() const {
    std::vector<PointFigures> asked;
    for (PointFigures& figures :
         FiguresOf(results_.header(), results_.points(), results_.records(), lost_)) {
      const std::string key = figures.point.Key();
      const auto point = std::find_if(points_.begin(), points_.end(),
                                      [&](const GridPoint& one) { return one.Key() == key; });
      if (point == points_.end()) continue;
      figures.point.target_percent = point->target_percent;
      asked.push_back(std::move(figures));
    }
    return asked;
  }

  absl::Status Report() {
    const EvalHeader& header = results_.header();
    const std::vector<PointFigures> figures = FiguresAskedFor();
    if (!settings_.pictures.empty()) {
      KV_RETURN_IF_ERROR(Save("accuracy.svg", DrawAccuracy(header, figures)));
      KV_RETURN_IF_ERROR(Save("timelines.svg", DrawTimelines(header, points_, results_.records())));
    }
    if (settings_.format == EvalFormat::kJson) {
      text_ = EvalJsonLines(header, figures);
      return absl::OkStatus();
    }
    const Terminal terminal = ProbeTerminal(STDOUT_FILENO);
    text_ = absl::StrCat(header.problem_source, ", ", header.model,
                         header.samples > 1 ? absl::StrCat(", ", header.samples, " samples") : "",
                         header.store ? ", with a store" : "", "\n\n",
                         EvalTable(figures, terminal.columns));
    for (const std::string& note : EvalNotes(header, figures)) {
      absl::StrAppend(&text_, "\n", Wrapped(note, terminal.columns, ""));
    }
    return absl::OkStatus();
  }

  absl::Status Save(const std::string& name, const std::string& text) const {
    const std::string path = absl::StrCat(settings_.pictures, "/", name);
    if (ReplaceFile(path, text).ok()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--pictures: ", Escaped(path), " cannot be written"));
  }

  EventLoop* loop_;
  const EvalSettings& settings_;
  std::unique_ptr<Clock> clock_;
  Clock::Time deadline_;
  EvalInputs inputs_;
  std::vector<GridPoint> points_;
  EvalResults results_;
  std::map<std::string, uint32_t> lost_;  // chains, by their points' keys
  size_t lost_told_ = 0;
  std::string text_;
  Progress progress_;  // last: its destructor restores the terminal first
};

}  // namespace

int RunEval(const std::vector<std::string>& arguments) {
  EvalSettings settings;
  const auto table = NewEvalSettingsTable(&settings);
  if (const std::optional<int> code = LoadVerbSettings(arguments, table.get())) return *code;
  return RunWithLoop([&](EventLoop& loop) {
    Eval eval(&loop, settings);
    const absl::Status status = eval.Run();
    return VerbEnd{status, eval.text(), eval.exit_code()};
  });
}

}  // namespace palimpsest::cli
