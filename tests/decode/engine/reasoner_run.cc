// SPDX-License-Identifier: Apache-2.0
#include "tests/decode/engine/reasoner_run.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/status_macros.h"
#include "services/decode/engine/engine.h"
#include "services/decode/model/calibration_file.h"
#include "services/decode/model/fingerprint.h"
#include "services/decode/model/query_codebook_file.h"
#include "services/decode/model/tokenizer.h"
#include "services/decode/served_policies.h"

namespace palimpsest {
namespace {

constexpr char kFolder[] = "lab/reasoner/model";
constexpr uint32_t kRowsMax = 512;  // as a worker has it

absl::StatusOr<std::vector<GenerateRequest>> RequestsOf(absl::Span<const CountdownProblem> problems,
                                                        const PolicySpec& policy,
                                                        const ModelConfig& config,
                                                        const Tokenizer& tokenizer) {
  std::vector<GenerateRequest> requests;
  for (const CountdownProblem& problem : problems) {
    KV_ASSIGN_OR_RETURN(std::vector<int32_t> prompt,
                        tokenizer.Encode(problem.prompt, /*add_special=*/false));
    const uint32_t room = static_cast<uint32_t>(config.max_positions - prompt.size());
    requests.push_back(
        {.prompt = std::move(prompt),
         .max_new_tokens = std::min(room, problem.chain_tokens + problem.chain_tokens / 4),
         .stop_tokens = config.eos_ids,
         .sampling = {},
         .policy = policy});
  }
  return requests;
}

// Room for all requests at once with nothing compressed, so that none waits or is pressed.
uint64_t PoolBytes(absl::Span<const GenerateRequest> requests, const CacheShape& shape) {
  uint64_t pages = 0;
  for (const GenerateRequest& request : requests) {
    pages += (request.prompt.size() + request.max_new_tokens) / kSlotsPerPage + 2;
  }
  const uint64_t bytes = pages * MakePageLayout(shape, PageFormat{}).page_bytes;
  return bytes + bytes / 16 + (1 << 20);  // frames have tails
}

absl::StatusOr<EngineOptions> OptionsFor(uint32_t batch, const std::string& fingerprint) {
  KV_ASSIGN_OR_RETURN(const CalibrationFile file,
                      LoadCalibration(absl::StrCat(kFolder, "/calibration.json"), fingerprint));
  return EngineOptions{.batch_max = batch,
                       .sparsity_layers = file.calibration.sparsity_layers,
                       .theta = file.calibration.theta};
}

// Null where the policy wants none.
absl::StatusOr<std::shared_ptr<const QueryCodebook>> CodebookFor(const PolicySpec& policy,
                                                                 const ModelConfig& config,
                                                                 const std::string& fingerprint) {
  if (policy.name != "anticipate") return nullptr;
  KV_ASSIGN_OR_RETURN(
      QueryCodebookFile file,
      LoadQueryCodebook(absl::StrCat(kFolder, "/", kQueryCodebookFileName), config, fingerprint));
  return std::make_shared<const QueryCodebook>(std::move(file.codebook));
}

// Runs the requests to their ends; fills in everything but verdicts.
absl::Status Generate(Engine& engine, std::vector<GenerateRequest> requests, const Clock& clock,
                      ReasonerRun& run) {
  std::map<RequestId, ReasonerAnswer*> answers;
  absl::Status failed;
  run.answers.resize(requests.size());
  const std::vector<Admission> admissions =
      engine.Submit(std::move(requests), [&](const GenerateEvent& event) {
        ReasonerAnswer& answer = *answers.at(event.request);
        answer.tokens.insert(answer.tokens.end(), event.tokens.begin(), event.tokens.end());
        if (event.finished.has_value()) answer.stats = *event.stats;
        failed.Update(event.error);
      });
  for (size_t i = 0; i < admissions.size(); ++i) {
    KV_RETURN_IF_ERROR(admissions[i].status);
    answers[admissions[i].request] = &run.answers[i];
  }
  const Clock::Time start = clock.Now();
  for (bool worked = true; worked;) {
    KV_ASSIGN_OR_RETURN(worked, engine.Step());
  }
  run.seconds = std::chrono::duration<double>(clock.Now() - start).count();
  return failed;
}

}  // namespace

uint32_t ReasonerRun::right() const {
  return static_cast<uint32_t>(
      std::count_if(answers.begin(), answers.end(),
                    [](const ReasonerAnswer& a) { return a.verdict == Verdict::kRight; }));
}

uint64_t ReasonerRun::tokens() const {
  uint64_t sum = 0;
  for (const ReasonerAnswer& answer : answers) sum += answer.tokens.size();
  return sum;
}

double ReasonerRun::bytes_percent() const {
  double held = 0, full = 0;
  for (const ReasonerAnswer& answer : answers) {
    held += static_cast<double>(answer.stats.footprint_byte_steps);
    full += static_cast<double>(answer.stats.full_byte_steps);
  }
  return 100 * held / full;
}

absl::StatusOr<ReasonerRun> RunReasoner(absl::Span<const CountdownProblem> problems,
                                        const ReasonerOptions& options) {
  KV_ASSIGN_OR_RETURN(const ModelSource source, FindModel(kFolder, ""));
  KV_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(kFolder));
  KV_ASSIGN_OR_RETURN(const std::string fingerprint, FingerprintModel(kFolder));
  KV_ASSIGN_OR_RETURN(EngineOptions engine_options, OptionsFor(options.batch, fingerprint));
  KV_ASSIGN_OR_RETURN(std::vector<GenerateRequest> requests,
                      RequestsOf(problems, options.policy, source.config, *tokenizer));
  KV_ASSIGN_OR_RETURN(auto codebook, CodebookFor(options.policy, source.config, fingerprint));
  if (codebook != nullptr) engine_options.lane_shares = codebook->lane_shares;
  KV_ASSIGN_OR_RETURN(const ServedPolicies served,
                      ServePolicies({options.policy.name}, codebook != nullptr));
  CacheShape shape = source.config.cache_shape();
  shape.slot_scores = served.slot_scores;
  shape.residue = served.residue;
  KV_ASSIGN_OR_RETURN(PagePool pool,
                      PagePool::Create({.shape = shape, .pool_bytes = PoolBytes(requests, shape)}));
  KV_ASSIGN_OR_RETURN(Device device, NewDevice({.choice = options.device,
                                                .source = source,
                                                .pool_bytes = pool.capacity_bytes(),
                                                .open_groups = options.batch,
                                                .rows_max = kRowsMax,
                                                .logit_rows_max = static_cast<int>(options.batch),
                                                .slot_scores = served.slot_scores,
                                                .residue = served.residue,
                                                .query_window = served.query_window,
                                                .rotate_keys = true,  // as a worker does
                                                .codebook = std::move(codebook),
                                                .threads = options.threads}));
  const std::unique_ptr<Clock> clock = NewSteadyClock();
  const auto backend = NewTimedBackend(std::move(device.backend), clock.get(), device.asynchronous);
  const std::unique_ptr<Model> model = std::move(device.model);  // goes before the backend
  Engine engine(engine_options, model.get(), backend.get(), std::move(pool), nullptr, clock.get(),
                nullptr);
  ReasonerRun run;
  KV_RETURN_IF_ERROR(Generate(engine, std::move(requests), *clock, run));
  for (size_t i = 0; i < problems.size(); ++i) {
    ReasonerAnswer& answer = run.answers[i];
    answer.verdict =
        JudgeAnswer(problems[i], tokenizer->Decode(answer.tokens, /*skip_special=*/false));
  }
  return run;
}

}  // namespace palimpsest
