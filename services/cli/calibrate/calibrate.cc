// SPDX-License-Identifier: Apache-2.0
// `palimpsest calibrate`: runs the model in this process, measures, writes the calibration, its
// picture and the codebook of queries.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <thread>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/clock.h"
#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "common/policy/calibration_picture.h"
#include "services/cli/assets.h"
#include "services/cli/calibrate/query_clusters.h"
#include "services/cli/calibrate/sampler.h"
#include "services/cli/calibrate/settings.h"
#include "services/cli/command.h"
#include "services/cli/interrupts.h"
#include "services/cli/likelihood/texts.h"
#include "services/cli/progress.h"
#include "services/cli/render.h"
#include "services/decode/model/calibration_file.h"
#include "services/decode/model/fingerprint.h"
#include "services/decode/model/query_codebook_file.h"
#include "services/decode/model/tokenizer.h"

namespace palimpsest::cli {
namespace {

constexpr uint32_t kUnknownChainTokens = 2048;
constexpr uint32_t kTextPromptTokens = 32;

std::string PicturePath(const std::string& out) {
  return std::filesystem::path(out).replace_extension(".svg").string();
}

class Calibrator {
 public:
  explicit Calibrator(const CalibrateSettings& settings)
      : settings_(settings), clock_(NewSteadyClock()), progress_(clock_.get(), settings.quiet) {}

  absl::StatusOr<std::string> Run() {
    KV_RETURN_IF_ERROR(CheckOutput("--out", settings_.out));
    KV_RETURN_IF_ERROR(CheckOutput("--codebook", CodebookPath(settings_)));
    KV_RETURN_IF_ERROR(Load());
    CalibrationFile file;
    KV_ASSIGN_OR_RETURN(file.model_fingerprint, FingerprintModel(model_.folder));
    KV_RETURN_IF_ERROR(CheckSampleMemory());
    QuerySamples queries(model_.config, settings_.query_samples, static_cast<int>(settings_.batch));
    KV_ASSIGN_OR_RETURN(const std::vector<SparsityRun> runs, Measure(&queries));
    KV_ASSIGN_OR_RETURN(const QueryCodebookFile codebook, Cluster(queries, file.model_fingerprint));
    progress_.End();
    KV_ASSIGN_OR_RETURN(file.calibration, Calibrate(runs));
    KV_RETURN_IF_ERROR(SaveCalibration(settings_.out, file));
    KV_RETURN_IF_ERROR(SavePicture(file.calibration));
    KV_RETURN_IF_ERROR(SaveQueryCodebook(CodebookPath(settings_), codebook));
    return Summary(file.calibration, codebook);
  }

 private:
  // Before minutes of work rather than after them.
  static absl::Status CheckOutput(absl::string_view flag, const std::string& path) {
    if (path.empty()) return absl::InvalidArgumentError(absl::StrCat(flag, ": the path is empty"));
    const std::filesystem::path folder = std::filesystem::path(path).parent_path();
    const std::string shown = folder.empty() ? "." : folder.string();
    if (access(shown.c_str(), W_OK) == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": the folder ", Escaped(shown), " cannot be written to"));
  }

  absl::Status Load() {
    KV_ASSIGN_OR_RETURN(const std::string folder, FindModelFolder(settings_.model));
    KV_ASSIGN_OR_RETURN(model_, FindModel(folder, ""));
    KV_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(folder));
    KV_RETURN_IF_ERROR(settings_.texts.empty() ? LoadProblems(*tokenizer) : LoadTexts(*tokenizer));
    return FitPositions();
  }

  absl::Status LoadProblems(const Tokenizer& tokenizer) {
    KV_ASSIGN_OR_RETURN(const ProblemSet set, ChooseCalibrationProblems(settings_.problems));
    source_ = set.source;
    for (const CountdownProblem& problem : set.problems) {
      SampledPrompt prompt;
      KV_ASSIGN_OR_RETURN(prompt.tokens, tokenizer.Encode(problem.prompt, false));
      const uint32_t chain = problem.chain_tokens > 0 ? problem.chain_tokens : kUnknownChainTokens;
      prompt.max_new_tokens =
          settings_.max_new_tokens > 0 ? settings_.max_new_tokens : chain + chain / 4;
      tokens_expected_ +=
          settings_.max_new_tokens > 0 ? std::min(settings_.max_new_tokens, chain) : chain;
      prompts_.push_back(std::move(prompt));
    }
    return absl::OkStatus();
  }

  absl::Status LoadTexts(const Tokenizer& tokenizer) {
    KV_ASSIGN_OR_RETURN(std::vector<LikelihoodText> texts,
                        ReadTexts(settings_.texts, tokenizer, 2 * kTextPromptTokens,
                                  static_cast<uint32_t>(model_.config.max_positions)));
    for (const LikelihoodText& text : texts) {
      const auto middle = text.tokens.begin() + kTextPromptTokens;
      SampledPrompt prompt{.tokens = {text.tokens.begin(), middle},
                           .continuation = {middle, text.tokens.end()}};
      prompt.max_new_tokens = static_cast<uint32_t>(prompt.continuation.size());
      if (settings_.max_new_tokens > 0) {
        prompt.max_new_tokens = std::min(prompt.max_new_tokens, settings_.max_new_tokens);
      }
      tokens_expected_ += prompt.max_new_tokens;
      prompts_.push_back(std::move(prompt));
    }
    source_ = absl::StrCat(texts.size(), " text", texts.size() == 1 ? "" : "s");
    return absl::OkStatus();
  }

  absl::Status FitPositions() {
    const auto positions = static_cast<uint32_t>(model_.config.max_positions);
    for (SampledPrompt& prompt : prompts_) {
      if (prompt.tokens.empty() || prompt.tokens.size() >= positions) {
        return absl::InvalidArgumentError(
            absl::StrCat("--problems: a prompt of ", prompt.tokens.size(),
                         " tokens; the model takes 1 to ", positions - 1));
      }
      const auto room = positions - static_cast<uint32_t>(prompt.tokens.size());
      prompt.max_new_tokens = std::min(prompt.max_new_tokens, room);
    }
    return absl::OkStatus();
  }

  // What does not fit would not be refused but killed, after minutes.
  absl::Status CheckSampleMemory() const {
    const uint64_t memory = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                            static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    const uint64_t wanted = QuerySamples::Bytes(model_.config, settings_.query_samples);
    if (wanted < memory) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("--query-samples: ", settings_.query_samples,
                                                   " take ", HumanBytes(wanted),
                                                   "; this machine has ", HumanBytes(memory)));
  }

  absl::StatusOr<std::vector<SparsityRun>> Measure(QuerySamples* queries) {
    const uint32_t batch = std::min(settings_.batch, static_cast<uint32_t>(prompts_.size()));
    const CacheShape shape = model_.config.cache_shape();
    KV_ASSIGN_OR_RETURN(
        PagePool pool,
        PagePool::Create({.shape = shape, .pool_bytes = PoolBytesFor(shape, prompts_, batch)}));
    KV_ASSIGN_OR_RETURN(const Device device, NewDevice({.choice = settings_.device,
                                                        .source = model_,
                                                        .pool_bytes = pool.capacity_bytes(),
                                                        .open_groups = batch,
                                                        .logit_rows_max = static_cast<int>(batch),
                                                        // A codebook's queries are plain.
                                                        .rotate_keys = false,
                                                        .threads = Threads()}));
    device_name_ = device.name;
    start_ = clock_->Now();
    const SamplerOptions options{
        .first_step = settings_.first_step, .every = settings_.every, .batch = batch};
    return SampleRuns(device, &pool, prompts_, options, queries,
                      [this](const SamplerProgress& progress) { return ShowRuns(progress); });
  }

  absl::StatusOr<QueryCodebookFile> Cluster(const QuerySamples& queries,
                                            const std::string& fingerprint) {
    TaskTeam team(Threads());
    start_ = clock_->Now();
    KV_ASSIGN_OR_RETURN(
        QueryCodebook codebook,
        ClusterQueries(queries, model_.config, settings_.codebook_queries, &team,
                       [this](size_t heads_done) { return ShowHeads(heads_done); }));
    return QueryCodebookFile{.model_fingerprint = fingerprint,
                             .prompts = static_cast<uint32_t>(prompts_.size()),
                             .tokens = queries.offered(),
                             .samples = queries.count(),
                             .codebook = std::move(codebook)};
  }

  int Threads() const {
    if (settings_.threads > 0) return static_cast<int>(settings_.threads);
    return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 256u));
  }

  absl::Status ShowRuns(const SamplerProgress& progress) {
    const auto tokens = static_cast<double>(progress.tokens_generated);
    const auto expected = static_cast<double>(tokens_expected_);
    return Show(expected > 0 ? tokens / expected : 0.0, [&] {
      return absl::StrCat(progress.prompts_done, "/", prompts_.size(), " chains, ",
                          HumanCount(progress.tokens_generated), " tokens, ",
                          HumanCount(progress.samples), " samples");
    });
  }

  absl::Status ShowHeads(size_t heads_done) {
    const auto heads = static_cast<size_t>(model_.config.layers * model_.config.query_heads);
    return Show(static_cast<double>(heads_done) / static_cast<double>(heads), [&] {
      return absl::StrCat("queries of ", heads_done, "/", heads, " heads clustered");
    });
  }

  absl::Status Show(double done, absl::FunctionRef<std::string()> describe) {
    if (Interrupted() != 0) return absl::CancelledError("interrupted");
    progress_.ShowBar("calibrate", done, [&] {
      const double seconds = std::chrono::duration<double>(clock_->Now() - start_).count();
      return absl::StrCat(describe(), TimeLeft(done, seconds));
    });
    return absl::OkStatus();
  }

  absl::Status SavePicture(const Calibration& calibration) const {
    return ReplaceFile(PicturePath(settings_.out), DrawCalibration(calibration, model_.folder));
  }

  std::string Summary(const Calibration& calibration, const QueryCodebookFile& codebook) const {
    Table table{.columns = {{"layer"},
                            {"three modes"},
                            {"valley depth"},
                            {"score"},
                            {"prompts by modes 1/2/3/4+"},
                            {"chosen", false}},
                .rows = {}};
    for (size_t i = 0; i < calibration.layers.size(); ++i) {
      const LayerCalibration& layer = calibration.layers[i];
      const auto& chosen = calibration.sparsity_layers;
      const bool is_chosen = std::find(chosen.begin(), chosen.end(), i) != chosen.end();
      table.rows.push_back({absl::StrCat(i), HumanPercent(100 * layer.three_mode_share),
                            absl::StrFormat("%.3f", layer.valley_depth),
                            absl::StrFormat("%.3f", layer.score),
                            absl::StrJoin(layer.prompts_by_modes, "/"), is_chosen ? "yes" : ""});
    }
    const Terminal terminal = ProbeTerminal(STDOUT_FILENO);
    std::string text = absl::StrCat(source_, ", ", model_.folder, ", on ", device_name_, "\n\n",
                                    ToText(table, terminal.columns), "\n");
    if (!calibration.theta.empty()) {
      absl::StrAppend(&text, absl::StrFormat("theta: E below %.4f, R below %.4f, T above\n",
                                             calibration.theta[0], calibration.theta[1]));
    } else {
      absl::StrAppend(&text, "theta: none; every thought is one class\n");
    }
    absl::StrAppend(&text, "codebook: ", codebook.codebook.queries, " queries a head, ",
                    HumanBytes(2 * codebook.codebook.data.size()), ", chosen from ",
                    codebook.samples, " of ", codebook.tokens, " tokens\n");
    absl::StrAppend(&text, "written: ", settings_.out, ", ", PicturePath(settings_.out), ", ",
                    CodebookPath(settings_), "\nuse them: palimpsest-decode --calibration ",
                    settings_.out, " --codebook ", CodebookPath(settings_),
                    ", or put them into the model's folder as calibration.json and ",
                    kQueryCodebookFileName, "\n");
    if (!calibration.warning.empty()) {
      WriteAll(STDERR_FILENO, absl::StrCat("warning: ", calibration.warning, "\n"));
    }
    return text;
  }

  const CalibrateSettings& settings_;
  std::unique_ptr<Clock> clock_;
  ModelSource model_;
  std::string source_, device_name_;
  std::vector<SampledPrompt> prompts_;
  uint64_t tokens_expected_ = 0;
  Clock::Time start_{};
  Progress progress_;
};

}  // namespace

int RunCalibrate(const std::vector<std::string>& arguments) {
  CalibrateSettings settings;
  const auto table = NewCalibrateSettingsTable(&settings);
  if (const std::optional<int> code = LoadVerbSettings(arguments, table.get())) return *code;
  return RunInProcess([&] {
    Calibrator calibrator(settings);
    absl::StatusOr<std::string> summary = calibrator.Run();
    return VerbEnd{summary.status(), summary.ok() ? *std::move(summary) : ""};
  });
}

}  // namespace palimpsest::cli
