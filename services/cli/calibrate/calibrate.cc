// SPDX-License-Identifier: Apache-2.0
// `palimpsest calibrate`: runs the model in this process, measures, writes the calibration, its
// picture and the codebook of queries and shares; or only adds shares to a codebook.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <thread>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "common/policy/calibration_picture.h"
#include "services/cli/assets.h"
#include "services/cli/calibrate/lane_losses.h"
#include "services/cli/calibrate/lane_shares.h"
#include "services/cli/calibrate/query_clusters.h"
#include "services/cli/calibrate/sampler.h"
#include "services/cli/calibrate/settings.h"
#include "services/cli/calibrate/summary.h"
#include "services/cli/command.h"
#include "services/cli/interrupts.h"
#include "services/cli/likelihood/texts.h"
#include "services/cli/progress.h"
#include "services/cli/render.h"
#include "services/decode/model/calibration_file.h"
#include "services/decode/model/fingerprint.h"
#include "services/decode/model/query_codebook_file.h"
#include "services/decode/model/rope.h"
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
    if (settings_.shares_of.empty()) KV_RETURN_IF_ERROR(CheckOutput("--out", settings_.out));
    KV_RETURN_IF_ERROR(CheckOutput("--codebook", CodebookPath(settings_)));
    KV_RETURN_IF_ERROR(Load());
    KV_ASSIGN_OR_RETURN(fingerprint_, FingerprintModel(model_.folder));
    return settings_.shares_of.empty() ? MeasureAll() : AddShares();
  }

 private:
  absl::StatusOr<std::string> MeasureAll() {
    KV_RETURN_IF_ERROR(CheckSampleMemory());
    QuerySamples queries(model_.config, settings_.query_samples, static_cast<int>(settings_.batch));
    KV_RETURN_IF_ERROR(OpenDevice());
    const SamplerOptions options{.first_step = settings_.first_step, .every = settings_.every};
    KV_ASSIGN_OR_RETURN(const SampledRuns runs, Sample(options, &queries));
    KV_ASSIGN_OR_RETURN(QueryCodebookFile codebook, Cluster(queries));
    KV_ASSIGN_OR_RETURN(codebook.codebook.lane_shares,
                        MeasureShares(runs.written, codebook.codebook));
    progress_.End();
    CalibrationFile file{.model_fingerprint = fingerprint_, .calibration = {}};
    KV_ASSIGN_OR_RETURN(file.calibration, Calibrate(runs.sparsity));
    KV_RETURN_IF_ERROR(SaveCalibration(settings_.out, file));
    KV_RETURN_IF_ERROR(SavePicture(file.calibration));
    KV_RETURN_IF_ERROR(SaveQueryCodebook(CodebookPath(settings_), codebook));
    return Summary(file.calibration, codebook);
  }

  absl::StatusOr<std::string> AddShares() {
    KV_ASSIGN_OR_RETURN(QueryCodebookFile codebook,
                        LoadQueryCodebook(settings_.shares_of, model_.config, fingerprint_));
    KV_RETURN_IF_ERROR(OpenDevice());
    KV_ASSIGN_OR_RETURN(const std::vector<std::vector<int32_t>> written, Write());
    KV_ASSIGN_OR_RETURN(codebook.codebook.lane_shares, MeasureShares(written, codebook.codebook));
    progress_.End();
    if (codebook.codebook.lane_shares.empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat("--shares-of: nothing to measure: no lane would lose anything of ", source_,
                       "; they must be longer than ", kRankedTokens, " tokens behind the prompt"));
    }
    KV_RETURN_IF_ERROR(SaveQueryCodebook(CodebookPath(settings_), codebook));
    return absl::StrCat(Heading(), Shares(codebook.codebook), "written: ", CodebookPath(settings_),
                        "\n");
  }

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
    return settings_.texts.empty() ? LoadProblems(*tokenizer) : LoadTexts(*tokenizer);
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
      KV_RETURN_IF_ERROR(Take(std::move(prompt), chain));
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
      const uint32_t tokens = prompt.max_new_tokens;
      KV_RETURN_IF_ERROR(Take(std::move(prompt), tokens));
    }
    source_ = absl::StrCat(texts.size(), " text", texts.size() == 1 ? "" : "s");
    return absl::OkStatus();
  }

  // `expected`: tokens that will follow it.
  absl::Status Take(SampledPrompt prompt, uint32_t expected) {
    const auto positions = static_cast<uint32_t>(model_.config.max_positions);
    const auto length = static_cast<uint32_t>(prompt.tokens.size());
    if (length < 1 || length >= positions) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--problems: a prompt of ", length, " tokens; the model takes 1 to ", positions - 1));
    }
    uint32_t end = positions;
    // Nobody would look at more.
    if (!settings_.shares_of.empty()) end = std::clamp(settings_.share_tokens, length + 1, end);
    prompt.max_new_tokens = std::min(prompt.max_new_tokens, end - length);
    tokens_expected_ += std::min(prompt.max_new_tokens, expected);
    prompts_.push_back(std::move(prompt));
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

  uint32_t Batch() const {
    return std::min(settings_.batch, static_cast<uint32_t>(prompts_.size()));
  }

  absl::Status OpenDevice() {
    const CacheShape shape = model_.config.cache_shape();
    const uint64_t pool_bytes = PoolBytesFor(shape, prompts_, Batch());
    KV_ASSIGN_OR_RETURN(pool_, PagePool::Create({.shape = shape, .pool_bytes = pool_bytes}));
    KV_ASSIGN_OR_RETURN(device_, NewDevice({.choice = settings_.device,
                                            .source = model_,
                                            .pool_bytes = pool_->capacity_bytes(),
                                            .open_groups = Batch(),
                                            .logit_rows_max = static_cast<int>(Batch()),
                                            // A codebook's queries are plain.
                                            .rotate_keys = false,
                                            .threads = Threads()}));
    return absl::OkStatus();
  }

  absl::StatusOr<SampledRuns> Sample(SamplerOptions options, QuerySamples* queries) {
    start_ = clock_->Now();
    options.batch = Batch();
    return SampleRuns(device_, &*pool_, prompts_, options, queries,
                      [this](const SamplerProgress& progress) { return ShowRuns(progress); });
  }

  // What follows each prompt, where nothing else is to be known of the runs.
  absl::StatusOr<std::vector<std::vector<int32_t>>> Write() {
    if (settings_.texts.empty()) {
      QuerySamples none(model_.config, 0, static_cast<int>(Batch()));
      const SamplerOptions options{.first_step = std::numeric_limits<uint32_t>::max()};
      KV_ASSIGN_OR_RETURN(SampledRuns runs, Sample(options, &none));
      return std::move(runs.written);
    }
    std::vector<std::vector<int32_t>> written;
    for (const SampledPrompt& prompt : prompts_) {
      const auto first = prompt.continuation.begin();
      written.emplace_back(first, first + prompt.max_new_tokens);
    }
    return written;
  }

  // Of every lane; none where nothing was lost. `written` by prompt.
  absl::StatusOr<std::vector<float>> MeasureShares(const std::vector<std::vector<int32_t>>& written,
                                                   const QueryCodebook& codebook) {
    if (settings_.share_tokens == 0) return std::vector<float>();
    std::vector<LookedAtText> texts;
    for (size_t i = 0; i < prompts_.size(); ++i) {
      std::vector<int32_t> tokens = prompts_[i].tokens;
      const auto prompt_tokens = static_cast<uint32_t>(tokens.size());
      tokens.insert(tokens.end(), written[i].begin(), written[i].end());
      tokens.resize(std::min<size_t>(tokens.size(), settings_.share_tokens));
      texts.push_back({.tokens = std::move(tokens), .prompt_tokens = prompt_tokens});
    }
    TaskTeam team(Threads());
    start_ = clock_->Now();
    KV_ASSIGN_OR_RETURN(
        const std::vector<double> losses,
        MeasureLaneLosses(device_, &*pool_, texts, codebook, &team,
                          [this](const LossProgress& progress) { return ShowLooks(progress); }));
    return LaneShares(losses);
  }

  absl::StatusOr<QueryCodebookFile> Cluster(const QuerySamples& queries) {
    TaskTeam team(Threads());
    start_ = clock_->Now();
    KV_ASSIGN_OR_RETURN(
        QueryCodebook codebook,
        ClusterQueries(queries, model_.config, settings_.codebook_queries, &team,
                       [this](size_t heads_done) { return ShowHeads(heads_done); }));
    const RopeConfig& rope = model_.config.rope;
    codebook.inverse_frequencies = InverseFrequencies(rope, model_.config.head_dim);
    codebook.attention_factor = static_cast<float>(rope.attention_factor);
    return QueryCodebookFile{.model_fingerprint = fingerprint_,
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

  absl::Status ShowLooks(const LossProgress& progress) {
    return Show(progress.share, [&] {
      return absl::StrCat("shares of lanes: ", progress.texts_done, "/", prompts_.size(),
                          " texts, ", progress.looks, " looks");
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

  std::string Heading() const {
    return absl::StrCat(source_, ", ", model_.folder, ", on ", device_.name, "\n\n");
  }

  std::string Shares(const QueryCodebook& codebook) const {
    return DescribeShares(codebook.lane_shares, codebook.layers,
                          ProbeTerminal(STDOUT_FILENO).columns);
  }

  std::string Summary(const Calibration& calibration, const QueryCodebookFile& codebook) const {
    std::string text =
        absl::StrCat(Heading(), DescribeLayers(calibration, ProbeTerminal(STDOUT_FILENO).columns),
                     "\n", Shares(codebook.codebook));
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
  std::string source_, fingerprint_;
  std::vector<SampledPrompt> prompts_;
  uint64_t tokens_expected_ = 0;
  std::optional<PagePool> pool_;
  Device device_;
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
