// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/plan.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/build_info.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/assets.h"
#include "services/cli/fnv.h"
#include "services/cli/json_lines.h"
#include "services/cli/render.h"
#include "services/cli/stored_lane_shares.h"
#include "services/decode/model/fingerprint.h"
#include "services/decode/model/model_config.h"
#include "services/decode/served_policies.h"

namespace palimpsest::cli {
namespace {

constexpr size_t kLengthsMax = 24;  // chains that stand for all when a budget is sought

absl::StatusOr<Selection> SelectionOf(const PolicySpec& spec) {
  KV_ASSIGN_OR_RETURN(const std::unique_ptr<const Policy> policy, NewPolicy(spec));
  return policy->selection();
}

// The file as it was given, or as it lies in the repository.
absl::StatusOr<std::string> FindProblems(const std::string& path) {
  std::error_code error;
  if (std::filesystem::exists(path, error)) return path;
  absl::StatusOr<std::string> shipped = FindShipped(path, "--problems FILE");
  if (shipped.ok()) return shipped;
  return absl::NotFoundError(absl::StrCat("--problems ", Escaped(path), ": no such file"));
}

absl::Status LoadProblems(const EvalSettings& settings, EvalInputs* inputs) {
  ProblemRules rules{.chat = settings.chat, .instruction = settings.instruction};
  if (rules.chat == ChatStyle::kAuto) rules.chat = ChatStyleOf(*inputs->tokenizer);
  KV_ASSIGN_OR_RETURN(const std::string path, FindProblems(settings.problems));
  KV_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  KV_ASSIGN_OR_RETURN(std::vector<EvalProblem> all,
                      ParseEvalProblems(text, settings.problems, rules));
  KV_ASSIGN_OR_RETURN(inputs->problems, Choose(std::move(all), settings.choice));
  const auto& problems = inputs->problems;
  inputs->order.resize(problems.size());
  std::iota(inputs->order.begin(), inputs->order.end(), size_t{0});
  std::stable_sort(inputs->order.begin(), inputs->order.end(), [&](size_t a, size_t b) {
    return problems[a].chain_tokens > problems[b].chain_tokens;
  });
  inputs->pictured = inputs->order[inputs->order.size() / 2];
  return absl::OkStatus();
}

// Lengths of the reference chains, evenly picked where there are many.
absl::StatusOr<std::vector<ChainLength>> Lengths(const EvalSettings& settings,
                                                 const EvalInputs& inputs) {
  std::vector<ChainLength> lengths;
  const size_t count = std::min(inputs.order.size(), kLengthsMax);
  for (size_t i = 0; i < count; ++i) {
    // The middle of the i-th of `count` equal parts.
    const size_t at = (2 * i + 1) * inputs.order.size() / (2 * count);
    const EvalProblem& problem = inputs.problems[inputs.order[at]];
    KV_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt,
                        inputs.tokenizer->Encode(problem.prompt, problem.add_special));
    ChainLength length{.prompt_tokens = static_cast<uint32_t>(prompt.size()),
                       .tokens = problem.chain_tokens};
    if (length.tokens == 0) length.tokens = length.prompt_tokens + settings.expect_tokens;
    if (length.tokens <= length.prompt_tokens) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--bytes: how long a chain is must be known, and problem ", Escaped(problem.id),
          " has no chain_tokens: give --expect-tokens, which a run of --policy full tells"));
    }
    lengths.push_back(length);
  }
  return lengths;
}

absl::Status ChooseBudgets(const EvalSettings& settings, const ModelConfig& config,
                           EvalInputs* inputs) {
  std::vector<ChainLength> lengths;
  for (GridPoint& point : inputs->points) {
    if (!point.target_percent.has_value()) continue;
    if (lengths.empty()) {
      KV_ASSIGN_OR_RETURN(lengths, Lengths(settings, *inputs));
      KV_ASSIGN_OR_RETURN(inputs->costs.lane_shares,
                          LoadLaneShares(settings.codebook, inputs->folder, config));
    }
    KV_ASSIGN_OR_RETURN(const ByteBudget budget,
                        BudgetForBytes(point.spec, inputs->costs, lengths, *point.target_percent));
    point.spec.budget_tokens = budget.budget_tokens;
    inputs->notes.push_back(absl::StrFormat("%s for %g %% of the bytes: expected %.2f %%",
                                            point.Label(), *point.target_percent, budget.percent));
  }
  return absl::OkStatus();
}

// Hash of the file that a policy's choices rest on; "" where there is none.
absl::StatusOr<std::string> AidOf(const EvalSettings& settings, const std::string& folder,
                                  Selector selector) {
  std::string path;
  if (selector == Selector::kAnticipated) {
    path = settings.codebook.empty() ? folder + "/queries.safetensors" : settings.codebook;
  } else if (selector == Selector::kKMeansMedoids) {
    path = settings.fleet.calibration.empty() ? folder + "/calibration.json"
                                              : settings.fleet.calibration;
  }
  std::error_code error;
  if (path.empty() || !std::filesystem::exists(path, error)) return "";
  KV_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  Fnv hash;
  hash.Add(absl::string_view(text));
  return absl::StrFormat("%016x", hash.value());
}

absl::Status LoadPoints(const EvalSettings& settings, const ModelConfig& config,
                        EvalInputs* inputs) {
  KV_ASSIGN_OR_RETURN(inputs->points, MakeGrid(settings.points));
  KV_RETURN_IF_ERROR(ChooseBudgets(settings, config, inputs));
  std::vector<GridPoint> distinct;
  for (GridPoint& point : inputs->points) {
    KV_ASSIGN_OR_RETURN(const Selection selection, SelectionOf(point.spec));
    KV_ASSIGN_OR_RETURN(point.aid, AidOf(settings, inputs->folder, selection.selector));
    // Told now, not when the points before it have run for hours. A running worker has its own.
    const bool lacks_codebook = selection.selector == Selector::kAnticipated && point.aid.empty();
    if (lacks_codebook && settings.fleet.worker.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--policy: ", point.spec.name,
          " wants a codebook of the model's queries; `palimpsest "
          "calibrate` makes one, --codebook says where it is, and --policy full,thinkv goes "
          "without"));
    }
    const auto same = std::find_if(distinct.begin(), distinct.end(), [&](const GridPoint& other) {
      return other.Key() == point.Key();
    });
    if (same == distinct.end()) {
      distinct.push_back(std::move(point));
    } else {
      inputs->notes.push_back(absl::StrCat(point.Label(), " is wanted twice and run once"));
    }
  }
  inputs->points = std::move(distinct);
  return absl::OkStatus();
}

// "128 problems of x.jsonl, chains of at least 4,000 tokens".
std::string SourceOf(const EvalSettings& settings, uint32_t problems) {
  std::string source = absl::StrCat(HumanCount(problems), " problem", problems == 1 ? "" : "s",
                                    " of ", Escaped(settings.problems));
  const uint32_t min = settings.choice.min_tokens, max = settings.choice.max_tokens;
  if (min > 0 && max > 0) {
    absl::StrAppend(&source, ", chains of ", HumanCount(min), " to ", HumanCount(max), " tokens");
  } else if (min > 0 || max > 0) {
    absl::StrAppend(&source, ", chains of at ", min > 0 ? "least " : "most ",
                    HumanCount(min > 0 ? min : max), " tokens");
  }
  return source;
}

absl::StatusOr<EvalHeader> HeaderOf(const EvalSettings& settings, const EvalInputs& inputs) {
  EvalHeader header;
  header.problems_hash = HashOf(inputs.problems);
  header.problems = static_cast<uint32_t>(inputs.problems.size());
  header.samples = settings.samples;
  header.sampling = {.temperature = static_cast<float>(settings.temperature),
                     .top_k = settings.top_k,
                     .top_p = static_cast<float>(settings.top_p),
                     .min_p = static_cast<float>(settings.min_p),
                     .seed = settings.seed};
  header.max_new_tokens = settings.max_new_tokens;
  header.answer = inputs.problems[0].countdown ? "" : ToString(settings.answer);
  header.store = settings.fleet.store;
  header.lockstep = settings.fleet.lockstep;
  KV_ASSIGN_OR_RETURN(header.model_fingerprint, FingerprintModel(inputs.folder));
  KV_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(inputs.folder));
  KV_ASSIGN_OR_RETURN(header.keys_rotated, RotatesKeys(settings.fleet.rotate_keys, config));
  header.model = Escaped(settings.model.empty() ? "lab/reasoner/model" : settings.model);
  header.family = std::string(Name(config.family));
  header.problem_source = SourceOf(settings, header.problems);
  header.commit = std::string(BuildCommit());
  header.machine = Escaped(settings.machine);
  return header;
}

}  // namespace

absl::StatusOr<EvalInputs> LoadEvalInputs(const EvalSettings& settings) {
  EvalInputs inputs;
  // Mistakes in the grid are told before anything is read.
  KV_RETURN_IF_ERROR(MakeGrid(settings.points).status());
  KV_ASSIGN_OR_RETURN(inputs.folder, FindModelFolder(settings.model));
  KV_ASSIGN_OR_RETURN(inputs.tokenizer, LoadTokenizer(inputs.folder));
  KV_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(inputs.folder));
  inputs.costs.shape = config.cache_shape();
  inputs.costs.query_heads = config.query_heads;
  inputs.costs.plan_lag_tokens = PlanLagOf(settings.fleet);
  KV_RETURN_IF_ERROR(LoadProblems(settings, &inputs));
  KV_RETURN_IF_ERROR(LoadPoints(settings, config, &inputs));
  KV_ASSIGN_OR_RETURN(inputs.header, HeaderOf(settings, inputs));
  return inputs;
}

std::vector<WorkerGroup> GroupPoints(const std::vector<GridPoint>& points) {
  std::map<ChainNeeds, WorkerGroup> groups;
  for (size_t i = 0; i < points.size(); ++i) {
    const absl::StatusOr<Selection> selection = SelectionOf(points[i].spec);
    KV_CHECK(selection.ok());  // MakeGrid has made this policy before
    WorkerGroup& group = groups[NeedsOf(*selection)];
    group.points.push_back(i);
    const std::string& name = points[i].spec.name;
    if (std::find(group.policies.begin(), group.policies.end(), name) == group.policies.end()) {
      group.policies.push_back(name);
    }
  }
  std::vector<WorkerGroup> list;
  list.reserve(groups.size());
  for (auto& [needs, group] : groups) list.push_back(std::move(group));
  return list;
}

}  // namespace palimpsest::cli
