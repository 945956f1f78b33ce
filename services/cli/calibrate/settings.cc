// SPDX-License-Identifier: Apache-2.0
#include "services/cli/calibrate/settings.h"

#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/query_codebook.h"
#include "services/cli/assets.h"
#include "services/decode/model/query_codebook_file.h"

namespace palimpsest::cli {
namespace {

constexpr absl::string_view kProblems = "lab/reasoner/problems/calibration.jsonl";
constexpr uint32_t kQueriesStep = 16;

void AddWhatToMeasure(CalibrateSettings* settings, SettingsTable* table) {
  table->Section("What to measure");
  table->Text("model", &settings->model,
              {"Hugging Face folder; by default the shipped reasoner.", "lab/reasoner/model"});
  table->Text("problems", &settings->problems,
              {"How many of the 64 calibration problems (chains of 400 to 16,384 tokens, none of "
               "them held out for judging), or a file of problems.",
               "lab/reasoner/problems/short.jsonl"});
  table->List(
      "texts", &settings->texts, {0, 1024},
      {"Instead of problems: texts, or folders of .txt files, that the model reads token by "
       "token, as if it wrote them. For models that do not think.",
       "lab/likelihood/calibration"});
  table->Integer("every", &settings->every, {1, 4096},
                 "Tokens between two measurements of sparsity.");
  table->Integer("first_step", &settings->first_step, {1, 1 << 20},
                 "Tokens before the first measurement of a chain's sparsity.");
  table->Integer("query_samples", &settings->query_samples, {kQueriesStep, 1 << 20},
                 "Generated tokens, drawn from all of them, whose queries are clustered. They are "
                 "kept in memory: 8 KiB a token and layer of an 8B model.");
  table->Integer("codebook_queries", &settings->codebook_queries,
                 {kQueriesStep, kCodebookQueriesMax},
                 "Typical queries of each layer and head, a multiple of 16.");
  table->Conflict(
      {"codebook_queries"}, [settings] { return settings->codebook_queries % kQueriesStep != 0; },
      "codebook_queries must be a multiple of 16");
  table->Conflict(
      {"codebook_queries", "query_samples"},
      [settings] { return settings->query_samples < settings->codebook_queries; },
      "there must be at least as many query_samples as codebook_queries");
  table->Integer("share_tokens", &settings->share_tokens, {0, 1 << 20},
                 "Of each chain or text the first tokens, prompt included, that lanes' shares are "
                 "measured on; 0: none are measured, all lanes keep the same.");
  table->Text("shares_of", &settings->shares_of,
              {"Measure nothing but shares, for a copy of this codebook that keeps its queries.",
               "lab/reasoner/model/queries.safetensors"});
  table->Conflict(
      {"shares_of", "share_tokens"},
      [settings] { return !settings->shares_of.empty() && settings->share_tokens == 0; },
      "with shares_of there must be share_tokens");
  table->Integer("max_new_tokens", &settings->max_new_tokens, {0, 1 << 24},
                 "Where a chain is cut off; 0: a quarter beyond its reference chain, or the text's "
                 "end.");
}

}  // namespace

std::unique_ptr<SettingsTable> NewCalibrateSettingsTable(CalibrateSettings* settings) {
  auto table = std::make_unique<SettingsTable>(
      "palimpsest calibrate",
      "Measures a model in full-cache runs: the layers whose attention sparsity tells kinds of "
      "thought apart, with the thresholds between them, a codebook of its typical queries, and how "
      "lanes (a layer's KV heads) should share a budget.");
  AddWhatToMeasure(settings, table.get());
  table->Section("Where to run");
  table->Parsed(
      "device", &settings->device, ParseDeviceChoice, FormatDeviceChoice,
      {"What the model runs on: auto (the first GPU where there is a usable one, else "
       "the CPU), cpu, cuda or cuda:N. Queries are clustered, and what lanes lose is scored, on "
       "the CPU.",
       "cuda:1"});
  table->Integer("batch", &settings->batch, {1, 256}, "Chains that run at once.");
  table->Integer("threads", &settings->threads, {0, 256}, "Of the CPU; 0 takes every core.");
  table->Section("Output");
  table->Text(
      "out", &settings->out,
      {"The calibration; its picture gets the same name with .svg. With shares_of: the codebook.",
       "calibration.json"});
  table->Text("codebook", &settings->codebook,
              {"The codebook of queries and shares, for the policy anticipate; by default "
               "queries.safetensors beside the calibration.",
               "queries.safetensors"});
  table->Switch("quiet", &settings->quiet, "No progress.");
  table->Example("--out calibration.json", "the shipped reasoner on 16 problems");
  table->Example("--problems 64 --out lab/reasoner/model/calibration.json",
                 "both files where palimpsest-decode finds them by itself");
  table->Example("--model build/smollm2-135m --texts lab/likelihood/calibration",
                 "a language model, from what it reads");
  table->Example("--shares-of queries.safetensors --out with-shares.safetensors",
                 "the same queries, with shares of lanes");
  return table;
}

absl::StatusOr<ProblemSet> ChooseCalibrationProblems(const std::string& problems) {
  uint32_t count = 0;
  if (!absl::SimpleAtoi(problems, &count)) return ChooseProblems(problems);  // a file
  KV_ASSIGN_OR_RETURN(const std::string path, FindShipped(kProblems, "--problems FILE"));
  ProblemSet set;
  KV_ASSIGN_OR_RETURN(set.problems, ReadProblems(path));
  if (count < 1 || count > set.problems.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--problems ", count, ": expected 1 to ", set.problems.size(), ", or a file"));
  }
  set.problems.resize(count);
  set.source = absl::StrCat(count, " calibration problem", count == 1 ? "" : "s");
  return set;
}

std::string CodebookPath(const CalibrateSettings& settings) {
  if (!settings.codebook.empty()) return settings.codebook;
  if (!settings.shares_of.empty() && settings.out != CalibrateSettings{}.out) return settings.out;
  return (std::filesystem::path(settings.out).parent_path() / kQueryCodebookFileName).string();
}

}  // namespace palimpsest::cli
