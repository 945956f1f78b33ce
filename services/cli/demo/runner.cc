// SPDX-License-Identifier: Apache-2.0
#include "services/cli/demo/runner.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/dispatcher.h"

namespace palimpsest::cli {
namespace {

constexpr uint32_t kUnknownChainTokens = 4096;
constexpr double kRateWindowSeconds = 3.0;

double Seconds(Clock::Duration duration) { return std::chrono::duration<double>(duration).count(); }

class Runner {
 public:
  Runner(EventLoop* loop, const Clock* clock, WorkerClient* worker, const Tokenizer& tokenizer,
         const RunOptions& options)
      : loop_(loop), clock_(clock), worker_(worker), tokenizer_(tokenizer), options_(options) {
    run_.spec = options.spec;
    run_.bounded = options.bounded;
  }

  absl::StatusOr<RunResult> Run(const std::vector<CountdownProblem>& problems,
                                const ProgressHandler& on_progress) {
    for (const CountdownProblem& problem : problems) {
      run_.chains.emplace_back().problem = problem;
      expected_ += problem.chain_tokens;
    }
    KV_ASSIGN_OR_RETURN(const WorkerStatus before, worker_->Status());
    start_ = clock_->Now();
    dispatcher_.emplace(
        clock_, worker_,
        Dispatcher::Options{.count = run_.chains.size(),
                            .in_flight = options_.batch == 0 ? run_.chains.size() : options_.batch,
                            .request = [this](size_t i) { return RequestFor(i); },
                            .describe =
                                [this](size_t i) {
                                  return absl::StrCat("problem ",
                                                      Escaped(run_.chains[i].problem.id), " under ",
                                                      Label(run_));
                                }});
    while (!dispatcher_->done()) {
      KV_RETURN_IF_ERROR(Submit());
      KV_RETURN_IF_ERROR(loop_->Run(options_.interval));
      KV_RETURN_IF_ERROR(worker_->Alive());
      KV_ASSIGN_OR_RETURN(const WorkerStatus now, worker_->Status());
      KV_RETURN_IF_ERROR(Look(now, on_progress));
    }
    KV_ASSIGN_OR_RETURN(const WorkerStatus after, worker_->Status());
    run_.pool_used_byte_steps = after.pool.used_byte_steps - before.pool.used_byte_steps;
    run_.pool_full_byte_steps = after.pool.full_byte_steps - before.pool.full_byte_steps;
    worker_->Cancel();
    return std::move(run_);
  }

 private:
  absl::StatusOr<ChainRequest> RequestFor(size_t index) const {
    const CountdownProblem& problem = run_.chains[index].problem;
    ChainRequest request;
    request.sampling.seed = options_.seed;
    request.policy = ChoiceOf(options_.spec);
    absl::StatusOr<std::vector<int32_t>> prompt =
        tokenizer_.Encode(problem.prompt, /*add_special=*/false);
    if (!prompt.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("problem ", Escaped(problem.id), ": ", prompt.status().message()));
    }
    request.prompt = *std::move(prompt);
    const uint32_t chain = problem.chain_tokens == 0 ? kUnknownChainTokens : problem.chain_tokens;
    // Compression may make a chain longer; one that goes on for a quarter more has lost its way.
    request.max_new_tokens =
        options_.max_new_tokens > 0 ? options_.max_new_tokens : chain + chain / 4;
    const uint32_t positions = worker_->first_status().model.max_positions;
    if (options_.max_new_tokens == 0 && positions > request.prompt.size()) {
      request.max_new_tokens = std::min<uint32_t>(
          request.max_new_tokens, positions - static_cast<uint32_t>(request.prompt.size()));
    }
    return request;
  }

  absl::Status Submit() {
    KV_ASSIGN_OR_RETURN(const auto submitted, dispatcher_->Submit());
    for (const auto& [index, request] : submitted) run_.chains[index].request = request;
    return absl::OkStatus();
  }

  void Take(Dispatcher::Event came) {
    ChainResult& chain = run_.chains[came.index];
    ChainEvent& event = came.event;
    chain.tokens.insert(chain.tokens.end(), event.tokens.begin(), event.tokens.end());
    generated_ += event.tokens.size();
    if (!event.finished) return;
    chain.finished = true;
    chain.end = event.end;
    if (event.end == ChainEnd::kError) chain.error = Escaped(ToString(event.error));
    chain.stats = std::move(event.stats);
    chain.seconds = Seconds(clock_->Now() - came.submitted);
    chain.verdict =
        JudgeAnswer(chain.problem, tokenizer_.Decode(chain.tokens, /*skip_special=*/false));
  }

  absl::Status Look(const WorkerStatus& worker, const ProgressHandler& on_progress) {
    for (Dispatcher::Event& event : dispatcher_->Take()) Take(std::move(event));
    const Clock::Time now = clock_->Now();
    run_.seconds = Seconds(now - start_);
    run_.pool_used_bytes_peak = std::max(run_.pool_used_bytes_peak, worker.pool.used_bytes);
    recent_.push_back({run_.seconds, generated_});
    while (recent_.size() > 2 && run_.seconds - recent_.front().first > kRateWindowSeconds) {
      recent_.pop_front();
    }
    const double span = run_.seconds - recent_.front().first;
    const double rate =
        span > 0 ? static_cast<double>(generated_ - recent_.front().second) / span : 0.0;
    KV_RETURN_IF_ERROR(on_progress({.run = run_,
                                    .worker = worker,
                                    .tokens_generated = generated_,
                                    .tokens_expected = expected_,
                                    .tokens_per_second = rate}));
    if (now < options_.deadline) return absl::OkStatus();
    return absl::DeadlineExceededError(
        absl::StrCat("the demo is not done after --timeout; ", dispatcher_->finished(), " of ",
                     run_.chains.size(), " chains of ", Label(run_),
                     " have ended. Give it more, or fewer --problems"));
  }

  EventLoop* loop_;
  const Clock* clock_;
  WorkerClient* worker_;
  const Tokenizer& tokenizer_;
  const RunOptions& options_;
  RunResult run_;
  Clock::Time start_;
  std::optional<Dispatcher> dispatcher_;
  uint64_t generated_ = 0;
  uint64_t expected_ = 0;
  std::deque<std::pair<double, uint64_t>> recent_;  // (seconds, tokens)
};

}  // namespace

absl::StatusOr<RunResult> RunChains(EventLoop* loop, const Clock* clock, WorkerClient* worker,
                                    const Tokenizer& tokenizer,
                                    const std::vector<CountdownProblem>& problems,
                                    const RunOptions& options, const ProgressHandler& on_progress) {
  return Runner(loop, clock, worker, tokenizer, options).Run(problems, on_progress);
}

}  // namespace palimpsest::cli
