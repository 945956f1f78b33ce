// SPDX-License-Identifier: Apache-2.0
#include "services/cli/demo/runner.h"

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"

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
    retry_at_ = start_;
    while (finished_ < run_.chains.size()) {
      KV_RETURN_IF_ERROR(SubmitWhatFits());
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
  absl::StatusOr<ChainRequest> RequestFor(const CountdownProblem& problem) const {
    ChainRequest request;
    request.seed = options_.seed;
    request.policy = options_.spec;
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

  absl::Status SubmitWhatFits() {
    const size_t batch =
        options_.batch == 0 ? run_.chains.size() : static_cast<size_t>(options_.batch);
    const size_t in_flight = next_ - finished_;
    if (next_ == run_.chains.size() || in_flight >= batch || clock_->Now() < retry_at_) {
      return absl::OkStatus();
    }
    const size_t room = std::min<size_t>(batch - in_flight, limits::kRequestsPerBatchMax);
    const size_t count = std::min(room, run_.chains.size() - next_);
    std::vector<ChainRequest> requests;
    for (size_t i = next_; i < next_ + count; ++i) {
      KV_ASSIGN_OR_RETURN(ChainRequest request, RequestFor(run_.chains[i].problem));
      requests.push_back(std::move(request));
    }
    KV_ASSIGN_OR_RETURN(const std::vector<ChainAdmission> admissions,
                        worker_->Generate(requests, [inbox = inbox_](ChainEvent event) {
                          inbox->push_back(std::move(event));
                        }));
    for (const ChainAdmission& admission : admissions) {
      // One refusal for now ends the wave: the ones behind it keep their order.
      if (!admission.admitted) return Refused(admission.refusal);
      ChainResult& chain = run_.chains[next_];
      chain.request = admission.request;
      started_[admission.request] = clock_->Now();
      by_request_[admission.request] = next_++;
    }
    return absl::OkStatus();
  }

  absl::Status Refused(const Refusal& refusal) {
    if (refusal.retry_after_ms > 0) {
      retry_at_ = clock_->Now() + std::chrono::milliseconds(refusal.retry_after_ms);
      return absl::OkStatus();
    }
    return absl::FailedPreconditionError(
        absl::StrCat("worker refused problem ", Escaped(run_.chains[next_].problem.id), " under ",
                     Label(run_), ": ", Escaped(ToString(refusal))));
  }

  void Take(ChainEvent event) {
    const auto found = by_request_.find(event.request);
    if (found == by_request_.end()) return;
    ChainResult& chain = run_.chains[found->second];
    if (chain.finished) return;
    chain.tokens.insert(chain.tokens.end(), event.tokens.begin(), event.tokens.end());
    generated_ += event.tokens.size();
    if (!event.finished) return;
    chain.finished = true;
    chain.end = event.end;
    if (event.end == ChainEnd::kError) chain.error = Escaped(ToString(event.error));
    chain.stats = std::move(event.stats);
    chain.seconds = Seconds(clock_->Now() - started_[event.request]);
    chain.verdict =
        JudgeAnswer(chain.problem, tokenizer_.Decode(chain.tokens, /*skip_special=*/false));
    ++finished_;
  }

  absl::Status Look(const WorkerStatus& worker, const ProgressHandler& on_progress) {
    // Events may come before the admission that names them, so they are taken here.
    for (ChainEvent& event : std::exchange(*inbox_, {})) Take(std::move(event));
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
    return absl::DeadlineExceededError(absl::StrCat(
        "the demo is not done after --timeout; ", finished_, " of ", run_.chains.size(),
        " chains of ", Label(run_), " have ended. Give it more, or fewer --problems"));
  }

  EventLoop* loop_;
  const Clock* clock_;
  WorkerClient* worker_;
  const Tokenizer& tokenizer_;
  const RunOptions& options_;
  RunResult run_;
  Clock::Time start_, retry_at_;
  size_t next_ = 0;  // the first chain that is not submitted
  size_t finished_ = 0;
  uint64_t generated_ = 0;
  uint64_t expected_ = 0;
  // Shared with the client, which may deliver after a run has failed.
  std::shared_ptr<std::vector<ChainEvent>> inbox_ = std::make_shared<std::vector<ChainEvent>>();
  std::map<uint64_t, size_t> by_request_;
  std::map<uint64_t, Clock::Time> started_;
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
