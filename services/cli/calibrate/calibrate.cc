// SPDX-License-Identifier: Apache-2.0
// `palimpsest calibrate`: runs the model in this process, measures, writes the file and its
// picture.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/clock.h"
#include "common/base/exit_codes.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "common/policy/calibration_file.h"
#include "common/policy/calibration_picture.h"
#include "kernels/cpu/cpu_backend.h"
#include "services/cli/assets.h"
#include "services/cli/calibrate/sampler.h"
#include "services/cli/command.h"
#include "services/cli/demo/settings.h"
#include "services/cli/render.h"
#include "services/decode/model/cpu_model.h"
#include "services/decode/model/fingerprint.h"
#include "services/decode/model/tokenizer.h"

namespace palimpsest::cli {
namespace {

constexpr std::chrono::milliseconds kFrameInterval{250};
constexpr std::chrono::seconds kLineInterval{5};
constexpr uint32_t kUnknownChainTokens = 2048;

struct CalibrateSettings {
  std::string model;
  std::string problems = "16";
  std::string out = "calibration.json";
  uint32_t every = 4;
  uint32_t first_step = 64;
  uint32_t max_new_tokens = 0;
  uint32_t batch = 16;
  uint32_t threads = 0;
  bool quiet = false;
};

std::unique_ptr<SettingsTable> NewTable(CalibrateSettings* settings) {
  auto table = std::make_unique<SettingsTable>(
      "palimpsest calibrate",
      "Finds the layers whose attention sparsity tells kinds of thought apart, and the thresholds "
      "between them, from full-cache runs of a model.");
  table->Section("What to measure");
  table->Text("model", &settings->model,
              {"Hugging Face folder; by default the shipped reasoner.", "lab/reasoner/model"});
  table->Text("problems", &settings->problems,
              {"How many of the held-out problems with chains of 1,000 to 3,000 tokens, or a file "
               "of problems.",
               "lab/reasoner/problems/short.jsonl"});
  table->Integer("every", &settings->every, {1, 4096}, "Tokens between two measurements.");
  table->Integer("first_step", &settings->first_step, {1, 1 << 20},
                 "Tokens before the first measurement of a chain.");
  table->Integer("max_new_tokens", &settings->max_new_tokens, {0, 1 << 24},
                 "Where a chain is cut off; 0: a quarter beyond its reference chain.");
  table->Integer("batch", &settings->batch, {1, 256}, "Chains that run at once.");
  table->Integer("threads", &settings->threads, {0, 1024}, "0 takes every core.");
  table->Section("Output");
  table->Text("out", &settings->out,
              {"The calibration; its picture gets the same name with .svg.", "calibration.json"});
  table->Switch("quiet", &settings->quiet, "No progress.");
  table->Example("--out calibration.json", "the shipped reasoner on 16 held-out problems");
  table->Example(
      "--model lab/reasoner/model --problems lab/reasoner/problems/short.jsonl "
      "--out lab/reasoner/model/calibration.json",
      "where palimpsest-decode finds it by itself");
  return table;
}

volatile std::sig_atomic_t g_signal = 0;

void OnSignal(int number) { g_signal = number; }

std::string PicturePath(const std::string& out) {
  return std::filesystem::path(out).replace_extension(".svg").string();
}

class Calibrator {
 public:
  explicit Calibrator(const CalibrateSettings& settings)
      : settings_(settings), clock_(NewSteadyClock()), block_(STDERR_FILENO) {}

  absl::StatusOr<std::string> Run() {
    KV_RETURN_IF_ERROR(CheckOutput());
    KV_RETURN_IF_ERROR(Load());
    CalibrationFile file;
    KV_ASSIGN_OR_RETURN(file.model_fingerprint, FingerprintModel(folder_));
    KV_ASSIGN_OR_RETURN(const std::vector<SparsityRun> runs, Measure());
    block_.Clear();
    KV_ASSIGN_OR_RETURN(file.calibration, Calibrate(runs));
    KV_RETURN_IF_ERROR(SaveCalibration(settings_.out, file));
    KV_RETURN_IF_ERROR(SavePicture(file.calibration));
    return Summary(file.calibration);
  }

 private:
  // Before minutes of work rather than after them.
  absl::Status CheckOutput() const {
    if (settings_.out.empty()) return absl::InvalidArgumentError("--out: the path is empty");
    const std::filesystem::path folder = std::filesystem::path(settings_.out).parent_path();
    const std::string shown = folder.empty() ? "." : folder.string();
    if (access(shown.c_str(), W_OK) == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--out: the folder ", Escaped(shown), " cannot be written to"));
  }

  absl::Status Load() {
    folder_ = settings_.model;
    if (folder_.empty()) {
      KV_ASSIGN_OR_RETURN(folder_, FindShipped("lab/reasoner/model", "--model DIR"));
    }
    KV_ASSIGN_OR_RETURN(const ProblemSet set, ChooseProblems(settings_.problems));
    source_ = set.source;
    KV_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(folder_));
    for (const CountdownProblem& problem : set.problems) {
      SampledPrompt prompt;
      KV_ASSIGN_OR_RETURN(prompt.tokens, tokenizer->Encode(problem.prompt, false));
      const uint32_t chain = problem.chain_tokens > 0 ? problem.chain_tokens : kUnknownChainTokens;
      prompt.max_new_tokens =
          settings_.max_new_tokens > 0 ? settings_.max_new_tokens : chain + chain / 4;
      tokens_expected_ +=
          settings_.max_new_tokens > 0 ? std::min(settings_.max_new_tokens, chain) : chain;
      prompts_.push_back(std::move(prompt));
    }
    threads_ = settings_.threads > 0 ? static_cast<int>(settings_.threads)
                                     : static_cast<int>(std::thread::hardware_concurrency());
    KV_ASSIGN_OR_RETURN(model_, NewCpuModel(folder_, {.threads = std::max(1, threads_)}));
    return FitPositions();
  }

  absl::Status FitPositions() {
    const auto positions = static_cast<uint32_t>(model_->config().max_positions);
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

  absl::StatusOr<std::vector<SparsityRun>> Measure() {
    const uint32_t batch = std::min({settings_.batch, static_cast<uint32_t>(prompts_.size()),
                                     static_cast<uint32_t>(model_->logit_rows_max())});
    const CacheShape shape = model_->config().cache_shape();
    PagePoolConfig config;
    config.shape = shape;
    config.pool_bytes = PoolBytesFor(shape, prompts_, batch);
    KV_ASSIGN_OR_RETURN(PagePool pool, PagePool::Create(config));
    KV_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend,
                        NewCpuBackend({.shape = shape,
                                       .query_heads = model_->config().query_heads,
                                       .pool_bytes = pool.usage().capacity_bytes,
                                       .open_groups = batch,
                                       .rows_max = static_cast<uint32_t>(model_->rows_max())},
                                      std::max(1, threads_)));
    start_ = clock_->Now();
    const SamplerOptions options{
        .first_step = settings_.first_step, .every = settings_.every, .batch = batch};
    return SampleSparsity(model_.get(), backend.get(), &pool, prompts_, options,
                          [this](const SamplerProgress& progress) { return Show(progress); });
  }

  absl::Status Show(const SamplerProgress& progress) {
    if (g_signal != 0) return absl::CancelledError("interrupted");
    const Clock::Time now = clock_->Now();
    if (settings_.quiet || now < next_show_) return absl::OkStatus();
    const Terminal terminal = ProbeTerminal(STDERR_FILENO);
    next_show_ =
        now + (terminal.live ? Clock::Duration(kFrameInterval) : Clock::Duration(kLineInterval));
    const double seconds = std::chrono::duration<double>(now - start_).count();
    const auto tokens = static_cast<double>(progress.tokens_generated);
    const auto expected = static_cast<double>(tokens_expected_);
    const double left = tokens > 0 ? std::max(0.0, expected - tokens) * seconds / tokens : 0.0;
    const std::string text = absl::StrCat(
        progress.prompts_done, "/", prompts_.size(), " chains, ",
        HumanCount(progress.tokens_generated), " tokens, ", HumanCount(progress.samples),
        " samples", seconds < 1 ? "" : absl::StrCat(", about ", HumanSeconds(left), " left"));
    if (terminal.live) {
      const int room = terminal.columns - 2 - DisplayWidth(text);
      StyledLine line = Bar(expected > 0 ? tokens / expected : 0.0, std::clamp(room, 4, 32),
                            terminal.utf8, Style::kReasoning);
      line.push_back({Style::kPlain, absl::StrCat(" ", text)});
      block_.Draw(terminal, {line});
    } else {
      WriteAll(STDERR_FILENO, absl::StrCat("calibrate: ", text, "\n"));
    }
    return absl::OkStatus();
  }

  absl::Status SavePicture(const Calibration& calibration) const {
    const std::string path = PicturePath(settings_.out);
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file << DrawCalibration(calibration, folder_);
    file.close();
    if (file) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat(Escaped(path), ": cannot be written"));
  }

  std::string Summary(const Calibration& calibration) const {
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
    std::string text =
        absl::StrCat(source_, ", ", folder_, "\n\n", ToText(table, terminal.columns), "\n");
    if (!calibration.theta.empty()) {
      absl::StrAppend(&text, absl::StrFormat("theta: E below %.4f, R below %.4f, T above\n",
                                             calibration.theta[0], calibration.theta[1]));
    } else {
      absl::StrAppend(&text, "theta: none; every thought is one class\n");
    }
    absl::StrAppend(&text, "written: ", settings_.out, ", ", PicturePath(settings_.out), "\n",
                    "use it: palimpsest-decode --calibration ", settings_.out,
                    ", or put it into the model's folder as calibration.json\n");
    if (!calibration.warning.empty()) {
      WriteAll(STDERR_FILENO, absl::StrCat("warning: ", calibration.warning, "\n"));
    }
    return text;
  }

  const CalibrateSettings& settings_;
  std::unique_ptr<Clock> clock_;
  std::string folder_, source_;
  std::vector<SampledPrompt> prompts_;
  uint64_t tokens_expected_ = 0;
  int threads_ = 1;
  std::unique_ptr<Model> model_;
  Clock::Time start_{}, next_show_{};
  LiveBlock block_;
};

}  // namespace

int RunCalibrate(const std::vector<std::string>& arguments) {
  CalibrateSettings settings;
  const auto table = NewTable(&settings);
  if (const std::optional<int> code = LoadVerbSettings(arguments, table.get())) return *code;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) std::signal(number, OnSignal);
  absl::StatusOr<std::string> summary = absl::UnknownError("");
  {
    Calibrator calibrator(settings);  // restores the terminal when it goes
    summary = calibrator.Run();
  }
  if (g_signal != 0) DieOf(g_signal);
  if (!summary.ok()) return Fail(summary.status());
  PrintResult(*summary);
  return kExitOk;
}

}  // namespace palimpsest::cli
