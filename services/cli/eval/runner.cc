// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/runner.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/dispatcher.h"
#include "services/cli/eval/loop.h"
#include "services/cli/eval/thoughts.h"
#include "services/cli/fnv.h"

namespace palimpsest::cli {
namespace {

constexpr double kRateWindowSeconds = 5.0;
constexpr size_t kMomentsMax = 400;

double Seconds(Clock::Duration duration) { return std::chrono::duration<double>(duration).count(); }

uint64_t HashOfTokens(const std::vector<int32_t>& tokens) {
  Fnv hash;
  for (const int32_t token : tokens) hash.Add(uint64_t{static_cast<uint32_t>(token)});
  return hash.value();
}

// So that a chain of any length has some hundreds.
void KeepEverySecond(std::vector<ChainMoment>* moments) {
  for (size_t i = 0; 2 * i < moments->size(); ++i) (*moments)[i] = (*moments)[2 * i];
  moments->resize((moments->size() + 1) / 2);
}

class Runner {
 public:
  Runner(EventLoop* loop, const Clock* clock, WorkerClient* worker, const Tokenizer& tokenizer,
         const EvalPlan& plan, const EvalHandlers& handlers)
      : loop_(loop),
        clock_(clock),
        worker_(worker),
        tokenizer_(tokenizer),
        plan_(plan),
        handlers_(handlers),
        dispatcher_(clock, worker,
                    {.count = plan.jobs.size(),
                     .in_flight = plan.in_flight,
                     .request = [this](size_t i) { return RequestFor(plan_.jobs[i]); },
                     .describe = [this](size_t i) { return Describe(plan_.jobs[i]); }}) {
    for (const EvalJob& job : plan.jobs) expected_left_ += ExpectedTokens(job);
  }

  absl::Status Run() {
    start_ = clock_->Now();
    while (!dispatcher_.done()) {
      KV_ASSIGN_OR_RETURN(const auto submitted, dispatcher_.Submit());
      for (const auto& [index, request] : submitted) running_[index].request = request;
      KV_RETURN_IF_ERROR(loop_->Run(plan_.interval));
      KV_RETURN_IF_ERROR(worker_->Alive());
      for (Dispatcher::Event& event : dispatcher_.Take()) {
        KV_RETURN_IF_ERROR(Take(std::move(event)));
      }
      KV_ASSIGN_OR_RETURN(const WorkerStatus status, worker_->Status());
      Look(status);
      KV_RETURN_IF_ERROR(handlers_.on_progress(Progress()));
      if (clock_->Now() < plan_.deadline || dispatcher_.done()) continue;
      return absl::DeadlineExceededError(
          absl::StrCat("the evaluation is not done after --timeout; ", dispatcher_.finished(),
                       " of ", plan_.jobs.size(), " chains that were left have ended"));
    }
    return absl::OkStatus();
  }

 private:
  struct Chain {
    uint64_t request = 0;
    std::vector<int32_t> tokens;
    Clock::Time first;  // when its first token came
    std::vector<ChainMoment> moments;
  };

  std::string Describe(const EvalJob& job) const {
    return absl::StrCat("problem ", Escaped(plan_.problems[job.problem].id), " under ",
                        plan_.points[job.point].Label());
  }

  bool IsPictured(const EvalJob& job) const {
    return job.problem == plan_.pictured && job.sample == 0;
  }

  uint32_t ExpectedTokens(const EvalJob& job) const {
    const uint32_t chain = plan_.problems[job.problem].chain_tokens;
    return chain > 0 ? chain : std::max(1u, plan_.max_new_tokens);
  }

  absl::StatusOr<ChainRequest> RequestFor(const EvalJob& job) const {
    const EvalProblem& problem = plan_.problems[job.problem];
    ChainRequest request;
    request.policy = ChoiceOf(plan_.points[job.point].spec);
    request.sampling = plan_.sampling;
    request.sampling.seed = SeedOf(plan_.sampling.seed, problem.id, job.sample);
    absl::StatusOr<std::vector<int32_t>> prompt =
        tokenizer_.Encode(problem.prompt, problem.add_special);
    if (!prompt.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("problem ", Escaped(problem.id), ": ", prompt.status().message()));
    }
    request.prompt = *std::move(prompt);
    // Compression may make a chain longer; one that goes on for a quarter more has lost its way.
    const uint32_t wanted = problem.chain_tokens > 0
                                ? problem.chain_tokens + problem.chain_tokens / 4
                                : kUnknownNewTokens;
    request.max_new_tokens = plan_.max_new_tokens > 0 ? plan_.max_new_tokens : wanted;
    const uint32_t positions = worker_->first_status().model.max_positions;
    const auto prompt_tokens = static_cast<uint32_t>(request.prompt.size());
    if (positions > prompt_tokens) {
      request.max_new_tokens = std::min(request.max_new_tokens, positions - prompt_tokens);
    }
    return request;
  }

  absl::Status Take(Dispatcher::Event came) {
    const EvalJob& job = plan_.jobs[came.index];
    Chain& chain = running_[came.index];
    ChainEvent& event = came.event;
    if (chain.tokens.empty()) chain.first = came.arrived;
    chain.tokens.insert(chain.tokens.end(), event.tokens.begin(), event.tokens.end());
    tokens_ += event.tokens.size();
    if (!event.finished) return absl::OkStatus();
    expected_left_ -= std::min<uint64_t>(expected_left_, ExpectedTokens(job));
    last_point_ = job.point;
    const auto taken = running_.extract(came.index);
    if (event.end != ChainEnd::kStop && event.end != ChainEnd::kLength) {
      const std::string why =
          event.end == ChainEnd::kError ? ToString(event.error) : std::string(Name(event.end));
      handlers_.on_lost(job, absl::StrCat(Describe(job), ": ", Escaped(why)));
      return absl::OkStatus();
    }
    return handlers_.on_record(RecordOf(job, std::move(taken.mapped()), came));
  }

  ChainRecord RecordOf(const EvalJob& job, Chain chain, Dispatcher::Event& came) const {
    const EvalProblem& problem = plan_.problems[job.problem];
    // The reasoner's judge looks for <eos>; other answers are what a person would read.
    const bool skip_special = !problem.countdown.has_value();
    const std::string text = tokenizer_.Decode(chain.tokens, skip_special);
    const Judgement judgement = Judge(problem, plan_.answer, text);
    ChainRecord record{.point = plan_.points[job.point].Key(),
                       .problem = problem.id,
                       .sample = job.sample,
                       .right = judgement.right,
                       .verdict = judgement.verdict,
                       .answer = judgement.answer,
                       .end = came.event.end,
                       .loops = EndsInALoop(chain.tokens),
                       .tokens = static_cast<uint32_t>(chain.tokens.size()),
                       .tokens_hash = HashOfTokens(chain.tokens),
                       .decode_seconds = Seconds(came.arrived - chain.first),
                       .stats = std::move(came.event.stats),
                       .moments = std::move(chain.moments),
                       .thoughts = ""};
    if (IsPictured(job) && problem.countdown.has_value()) {
      record.thoughts = ToText(CountdownThoughts(text));
    }
    // One letter all along says nothing, and is long.
    std::string& timeline = record.stats.timeline;
    if (timeline.find_first_not_of(timeline.substr(0, 1)) == std::string::npos) timeline.clear();
    return record;
  }

  void Look(const WorkerStatus& status) {
    std::map<uint64_t, const ChainStatus*> by_request;
    for (const ChainStatus& chain : status.chains) by_request[chain.request] = &chain;
    for (auto& [index, chain] : running_) {
      const EvalJob& job = plan_.jobs[index];
      if (!IsPictured(job)) continue;
      const auto found = by_request.find(chain.request);
      if (found == by_request.end()) continue;
      const bool moved =
          chain.moments.empty() || chain.moments.back().tokens < found->second->tokens;
      if (!moved) continue;
      if (chain.moments.size() == kMomentsMax) KeepEverySecond(&chain.moments);
      chain.moments.push_back({.tokens = found->second->tokens,
                               .live_tokens = found->second->live_tokens,
                               .footprint_bytes = found->second->footprint_bytes});
    }
  }

  EvalProgress Progress() {
    const double now = Seconds(clock_->Now() - start_);
    recent_.push_back({now, tokens_});
    while (recent_.size() > 2 && now - recent_.front().first > kRateWindowSeconds) {
      recent_.pop_front();
    }
    const double span = now - recent_.front().first;
    const double rate =
        span > 0 ? static_cast<double>(tokens_ - recent_.front().second) / span : 0.0;
    uint64_t under_way = 0;
    for (const auto& [index, chain] : running_) {
      under_way += std::min<uint64_t>(chain.tokens.size(), ExpectedTokens(plan_.jobs[index]));
    }
    const auto left = static_cast<double>(expected_left_ - std::min(expected_left_, under_way));
    return {.done = dispatcher_.finished(),
            .jobs = plan_.jobs.size(),
            .point = last_point_,
            .tokens = tokens_,
            .tokens_per_second = rate,
            .seconds_left = rate > 0 ? left / rate : std::numeric_limits<double>::quiet_NaN()};
  }

  EventLoop* loop_;
  const Clock* clock_;
  WorkerClient* worker_;
  const Tokenizer& tokenizer_;
  const EvalPlan& plan_;
  const EvalHandlers& handlers_;
  Dispatcher dispatcher_;
  Clock::Time start_;
  std::map<size_t, Chain> running_;  // by index of the job
  uint64_t tokens_ = 0;
  uint64_t expected_left_ = 0;  // of chains that have not ended
  size_t last_point_ = 0;
  std::deque<std::pair<double, uint64_t>> recent_;  // (seconds, tokens)
};

}  // namespace

uint64_t SeedOf(uint64_t seed, const std::string& problem, uint32_t sample) {
  Fnv hash;
  hash.Add(seed);
  hash.Add(absl::string_view(problem));
  hash.Add(uint64_t{sample});
  return hash.value() >> 1;  // fits a signed number, wherever one is shown
}

absl::Status RunEvalChains(EventLoop* loop, const Clock* clock, WorkerClient* worker,
                           const Tokenizer& tokenizer, const EvalPlan& plan,
                           const EvalHandlers& handlers) {
  absl::Status status = Runner(loop, clock, worker, tokenizer, plan, handlers).Run();
  worker->Cancel();
  return status;
}

}  // namespace palimpsest::cli
