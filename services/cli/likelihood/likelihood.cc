// SPDX-License-Identifier: Apache-2.0
// `palimpsest likelihood`: runs the model in this process, and reports.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/build_info.h"
#include "common/base/clock.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/assets.h"
#include "services/cli/command.h"
#include "services/cli/interrupts.h"
#include "services/cli/likelihood/report.h"
#include "services/cli/likelihood/runner.h"
#include "services/cli/likelihood/settings.h"
#include "services/cli/progress.h"
#include "services/cli/render.h"
#include "services/decode/model/calibration_file.h"
#include "services/decode/model/fingerprint.h"
#include "services/decode/model/query_codebook_file.h"

namespace palimpsest::cli {
namespace {

constexpr absl::string_view kShippedTexts = "lab/likelihood/texts";

class Likelihood {
 public:
  explicit Likelihood(const LikelihoodSettings& settings)
      : settings_(settings), clock_(NewSteadyClock()), progress_(clock_.get(), settings.quiet) {}

  absl::StatusOr<std::string> Run() {
    if (!settings_.run) {
      KV_RETURN_IF_ERROR(file_.Read(settings_.results));
      KV_RETURN_IF_ERROR(CheckReadings(file_.all()));
      return Report(file_.all());
    }
    KV_RETURN_IF_ERROR(ChoosePoints());
    KV_RETURN_IF_ERROR(Load());
    KV_RETURN_IF_ERROR(file_.Open(settings_.results));
    KV_ASSIGN_OR_RETURN(const std::vector<LikelihoodJob> jobs, Missing());
    rows_to_compare_ = RowsToCompare(options_, jobs);
    start_ = clock_->Now();
    KV_RETURN_IF_ERROR(CompareCaches(
        options_, jobs,
        [this](const LikelihoodJob& job, const GridPoint& point, PointResult found) {
          found.identity = IdentityOf(*job.text, point);
          found.commit = std::string(BuildCommit());
          return file_.Add(found);
        },
        [this](uint64_t rows) { return Show(rows); }));
    progress_.End();
    return Report(AskedFor());
  }

 private:
  // The full cache in bf16 is what the others are compared with.
  absl::Status ChoosePoints() {
    KV_ASSIGN_OR_RETURN(points_, MakeGrid(settings_.grid));
    std::erase_if(points_, [](const GridPoint& point) { return point.is_full(); });
    if (!points_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "--policy, --formats: there is nothing to compare with the full cache in bf16; allowed: "
        "another policy, or the full cache in other formats, as in --formats nvfp4");
  }

  absl::Status Load() {
    if (settings_.model.empty()) {
      return absl::InvalidArgumentError(
          "--model: required, the folder of a language model; `lab/agreement/make_smollm2.sh "
          "build/smollm2-135m` makes a small one");
    }
    KV_ASSIGN_OR_RETURN(const std::string folder, FindModelFolder(settings_.model));
    KV_ASSIGN_OR_RETURN(options_.source, FindModel(folder, ""));
    KV_ASSIGN_OR_RETURN(fingerprint_, FingerprintModel(settings_.model));
    options_.device = settings_.device;
    options_.prompt_tokens = settings_.prompt_tokens;
    options_.every = settings_.every;
    options_.batch = settings_.batch;
    options_.pool_bytes = settings_.pool_bytes;
    options_.rotate_keys = settings_.rotate_keys;
    options_.threads = settings_.threads > 0
                           ? static_cast<int>(settings_.threads)
                           : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    KV_RETURN_IF_ERROR(LoadCodebook());
    KV_RETURN_IF_ERROR(LoadThresholds());
    std::vector<std::string> paths = settings_.texts;
    if (paths.empty()) {
      KV_ASSIGN_OR_RETURN(const std::string shipped, FindShipped(kShippedTexts, "--texts DIR"));
      paths.push_back(shipped);
    }
    KV_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(settings_.model));
    const auto positions = static_cast<uint32_t>(options_.source.config.max_positions);
    KV_ASSIGN_OR_RETURN(texts_, ReadTexts(paths, *tokenizer, settings_.prompt_tokens + 16,
                                          std::min(settings_.text_tokens, positions)));
    return absl::OkStatus();
  }

  // A file that a flag names must be there; one in the model's folder may be.
  std::string Beside(const std::string& given, absl::string_view name) const {
    if (!given.empty()) return given;
    std::string path = absl::StrCat(settings_.model, "/", name);
    return std::filesystem::exists(path) ? path : "";
  }

  bool IsWanted(absl::string_view policy) const {
    return std::any_of(points_.begin(), points_.end(),
                       [&](const GridPoint& point) { return point.spec.name == policy; });
  }

  absl::Status LoadCodebook() {
    const std::string path = Beside(settings_.codebook, kQueryCodebookFileName);
    if (path.empty() || !IsWanted("anticipate")) return absl::OkStatus();
    KV_ASSIGN_OR_RETURN(QueryCodebookFile file,
                        LoadQueryCodebook(path, options_.source.config, fingerprint_));
    options_.codebook = std::make_shared<const QueryCodebook>(std::move(file.codebook));
    KV_ASSIGN_OR_RETURN(codebook_fingerprint_, FingerprintFile(path));
    return absl::OkStatus();
  }

  absl::Status LoadThresholds() {
    const std::string path = Beside(settings_.calibration, "calibration.json");
    if (path.empty() || !IsWanted("thinkv")) return absl::OkStatus();
    KV_ASSIGN_OR_RETURN(const CalibrationFile file, LoadCalibration(path, fingerprint_));
    options_.sparsity_layers = file.calibration.sparsity_layers;
    options_.theta = file.calibration.theta;
    KV_ASSIGN_OR_RETURN(calibration_fingerprint_, FingerprintFile(path));
    return absl::OkStatus();
  }

  PointIdentity IdentityOf(const LikelihoodText& text, const GridPoint& point) const {
    std::string aid;
    if (point.spec.name == "anticipate") aid = codebook_fingerprint_;
    if (point.spec.name == "thinkv") aid = calibration_fingerprint_;
    return {.model_fingerprint = fingerprint_,
            .text = text.name,
            .text_fingerprint = text.fingerprint,
            .prompt_tokens = settings_.prompt_tokens,
            .every = settings_.every,
            .policy = point.spec.name,
            .window_tokens = point.spec.window_tokens,
            .budget = point.BudgetLabel(),
            .formats = absl::StrCat(ToString(point.spec.formats),
                                    settings_.rotate_keys ? ", keys rotated" : ""),
            .aid = std::move(aid)};
  }

  // What is not in the file yet and can be. Says so where a budget in bytes is out of reach.
  absl::StatusOr<std::vector<LikelihoodJob>> Missing() {
    std::map<std::string, size_t> out_of_reach;  // texts, by the reason
    std::vector<LikelihoodJob> jobs;
    for (const LikelihoodText& text : texts_) {
      LikelihoodJob job{.text = &text, .points = {}};
      for (const GridPoint& point : points_) {
        if (file_.Find(IdentityOf(text, point)) != nullptr) continue;
        const absl::Status resolved = ResolvePoint(options_, point, text).status();
        if (absl::IsOutOfRange(resolved)) {
          ++out_of_reach[std::string(resolved.message())];
          continue;
        }
        KV_RETURN_IF_ERROR(resolved);
        job.points.push_back(&point);
      }
      if (!job.points.empty()) jobs.push_back(std::move(job));
    }
    for (const auto& [reason, texts] : out_of_reach) {
      progress_.Note(
          absl::StrCat("left out of ", texts, texts == 1 ? " text: " : " texts: ", reason));
    }
    return jobs;
  }

  absl::Status Show(uint64_t rows) {
    if (Interrupted() != 0) return absl::CancelledError("interrupted");
    const double share = static_cast<double>(rows) / static_cast<double>(rows_to_compare_);
    progress_.ShowBar("likelihood", share, [&] {
      const double seconds = std::chrono::duration<double>(clock_->Now() - start_).count();
      return absl::StrCat(HumanCount(rows), " of ", HumanCount(rows_to_compare_), " rows",
                          TimeLeft(share, seconds));
    });
    return absl::OkStatus();
  }

  std::vector<PointResult> AskedFor() const {
    std::vector<PointResult> results;
    for (const GridPoint& point : points_) {
      for (const LikelihoodText& text : texts_) {
        const PointResult* found = file_.Find(IdentityOf(text, point));
        if (found != nullptr) results.push_back(*found);
      }
    }
    return results;
  }

  // A mean over texts wants each of them once, and all positions compared alike.
  absl::Status CheckReadings(const std::vector<PointResult>& results) const {
    std::map<std::string, std::string> readings;  // by the text's name
    for (const PointResult& result : results) {
      const PointIdentity& identity = result.identity;
      const std::string reading =
          absl::StrCat(identity.text_fingerprint, " ", identity.prompt_tokens, " ", identity.every);
      if (readings.try_emplace(identity.text, reading).first->second == reading) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "--results: ", Escaped(settings_.results), " holds readings of ", Escaped(identity.text),
          " that differ in tokens, --prompt-tokens or --every; allowed with --no-run: a file of "
          "one "
          "reading of each text"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Report(const std::vector<PointResult>& results) const {
    if (results.empty()) {
      return absl::InvalidArgumentError(
          settings_.run ? "--bytes: out of reach for every policy and text"
                        : absl::StrCat("--results: ", Escaped(settings_.results), " is empty"));
    }
    LikelihoodFacts facts = FactsOf(settings_.model, results);
    if (!settings_.machine.empty()) facts.device = settings_.machine;
    const std::vector<LikelihoodFigures> figures = FiguresOf(results);
    if (!settings_.picture.empty()) {
      std::ofstream file(settings_.picture, std::ios::binary);
      file << DrawDivergence(facts, figures) << std::flush;
      if (!file) {
        return absl::InvalidArgumentError(
            absl::StrCat("--picture: ", Escaped(settings_.picture), " cannot be written"));
      }
    }
    return settings_.format == LikelihoodFormat::kJson
               ? LikelihoodJsonLines(facts, figures)
               : LikelihoodTable(facts, figures, ProbeTerminal(STDOUT_FILENO).columns);
  }

  const LikelihoodSettings& settings_;
  std::unique_ptr<Clock> clock_;
  LikelihoodOptions options_;
  std::string fingerprint_, codebook_fingerprint_, calibration_fingerprint_;
  std::vector<GridPoint> points_;
  std::vector<LikelihoodText> texts_;
  ResultFile file_;
  uint64_t rows_to_compare_ = 0;
  Clock::Time start_{};
  Progress progress_;
};

}  // namespace

int RunLikelihood(const std::vector<std::string>& arguments) {
  LikelihoodSettings settings;
  const auto table = NewLikelihoodTable(&settings);
  if (const std::optional<int> code = LoadVerbSettings(arguments, table.get())) return *code;
  return RunInProcess([&] {
    Likelihood likelihood(settings);
    absl::StatusOr<std::string> report = likelihood.Run();
    return VerbEnd{report.status(), report.ok() ? *std::move(report) : ""};
  });
}

}  // namespace palimpsest::cli
