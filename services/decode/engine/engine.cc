// SPDX-License-Identifier: Apache-2.0
#include "services/decode/engine/engine.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace palimpsest {
namespace {

constexpr std::chrono::milliseconds kIdleWait{20};

double SecondsInsideModel(const std::array<double, kKernelFamilyCount>& seconds) {
  return seconds[static_cast<size_t>(KernelFamily::kAppend)] +
         seconds[static_cast<size_t>(KernelFamily::kAttend)] +
         seconds[static_cast<size_t>(KernelFamily::kSparsity)];
}

}  // namespace

Engine::Engine(const EngineOptions& options, Model* model, TimedBackend* backend, PagePool pool,
               ControlPlane* control, const Clock* clock, EngineObserver* observer)
    : options_(options),
      model_(model),
      backend_(backend),
      pool_(std::move(pool)),
      control_(control),
      clock_(clock),
      observer_(observer),
      boundary_({.lockstep = options.lockstep, .lockstep_deadline = options.lockstep_deadline},
                backend, control, clock, observer) {
  KV_CHECK(options_.lane_shares.empty() ||
           options_.lane_shares.size() == static_cast<size_t>(pool_.shape().lanes()));
  for (uint32_t i = options_.batch_max; i > 0; --i) free_open_groups_.push_back(i - 1);
  PublishSnapshot(/*force=*/true);
}

Engine::~Engine() {
  // The model has no step left to await, and may serve another engine.
  for (const size_t turn : {1 - turn_, turn_}) TakeTokens(steps_[turn]).IgnoreError();
}

void Engine::Cancel(RequestId request) {
  const std::lock_guard<std::mutex> lock(mutex_);
  cancelled_.push_back(request);
  wake_.notify_one();
}

void Engine::Drain() {
  const std::lock_guard<std::mutex> lock(mutex_);
  draining_ = true;
  wake_.notify_one();
}

void Engine::Stop() {
  const std::lock_guard<std::mutex> lock(mutex_);
  stop_ = true;
  wake_.notify_one();
}

absl::Status Engine::Run() {
  while (true) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (stop_) break;
    }
    KV_ASSIGN_OR_RETURN(const bool worked, Step());
    if (worked) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait_for(lock, kIdleWait,
                   [&] { return stop_ || !waiting_.empty() || !cancelled_.empty(); });
  }
  FailAll(absl::UnavailableError("the worker is stopping"));
  return absl::OkStatus();
}

absl::StatusOr<bool> Engine::Step() {
  HearStore();
  TakeCancellations();
  Admit();
  if (chains_.empty() && !steps_[1 - turn_].running()) {
    PublishSnapshot(/*force=*/true);
    return false;
  }
  const Clock::Time start = clock_->Now();
  const uint64_t prefilled = working_.tokens_prefilled;
  const uint64_t decoded = working_.tokens_decoded;
  if (const absl::Status status = RunStep(); !status.ok()) {
    FailAll(status);
    return status;
  }
  const double seconds = std::chrono::duration<double>(clock_->Now() - start).count();
  working_.step_seconds += seconds;
  if (observer_ != nullptr) {
    observer_->OnStep(seconds, static_cast<uint32_t>(working_.tokens_prefilled - prefilled),
                      static_cast<uint32_t>(working_.tokens_decoded - decoded));
    ObserveKernels();
  }
  PublishSnapshot(/*force=*/false);
  return true;
}

void Engine::ObserveKernels() {
  const auto kernels = backend_->TakeSeconds();
  if (!kernels.has_value()) {
    observer_->OnKernel("device", model_seconds_);
    return;
  }
  for (int i = 0; i < kKernelFamilyCount; ++i) {
    const double seconds = (*kernels)[i];
    if (seconds > 0) observer_->OnKernel(Name(static_cast<KernelFamily>(i)), seconds);
  }
  // What a model does between the kernels is nearly all matrix products.
  observer_->OnKernel("matmul", model_seconds_ - SecondsInsideModel(*kernels));
}

void Engine::HearStore() {
  if (control_ == nullptr) return;
  const auto find = [&](SequenceId id) -> Chain* {
    const auto place =
        std::lower_bound(chains_.begin(), chains_.end(), id,
                         [](const auto& chain, SequenceId wanted) { return chain->id < wanted; });
    return place != chains_.end() && (*place)->id == id ? place->get() : nullptr;
  };
  for (StorePlan& plan : control_->Poll()) {
    if (Chain* chain = find(plan.sequence)) chain->plans_waiting.push_back(std::move(plan));
  }
  for (const SequenceId id : control_->NeedsSnapshot()) {
    if (Chain* chain = find(id)) chain->resync = true;
  }
  for (const std::unique_ptr<Chain>& chain : chains_) {
    if (!chain->resync || control_->state() != StoreState::kConnected) continue;
    chain->resync = false;
    ++working_.reregistrations;
    control_->Register({.sequence = chain->id,
                        .tenant = chain->request.tenant,
                        .policy = chain->request.policy,
                        .state = chain->cache->state(),
                        .report_number = chain->report_number});
  }
}

void Engine::TakeCancellations() {
  std::vector<RequestId> cancelled;
  std::vector<std::unique_ptr<Chain>> never_ran;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (cancelled_.empty()) return;
    cancelled.swap(cancelled_);
    for (const RequestId id : cancelled) {
      auto it = std::find_if(waiting_.begin(), waiting_.end(),
                             [&](const std::unique_ptr<Chain>& c) { return c->id == id; });
      if (it == waiting_.end()) continue;
      never_ran.push_back(std::move(*it));
      waiting_.erase(it);
    }
  }
  for (const std::unique_ptr<Chain>& chain : never_ran) {
    chain->finish = FinishReason::kCancelled;
    SendEvents(*chain);
  }
  for (const std::unique_ptr<Chain>& chain : chains_) {
    if (std::find(cancelled.begin(), cancelled.end(), chain->id) != cancelled.end()) {
      chain->finish = FinishReason::kCancelled;
    }
  }
}

// First come, first served: a request that does not fit yet holds the ones behind it, so that a
// large one cannot starve.
void Engine::Admit() {
  const std::lock_guard<std::mutex> lock(mutex_);
  while (!waiting_.empty() && !free_open_groups_.empty()) {
    Chain& chain = *waiting_.front();
    const PageFormat format = chain.request.policy.formats.of(Thought::kReasoning);
    if (!pool_.Reserve(format, chain.pages_reserved).ok()) break;
    chain.cache = std::make_unique<SequenceCache>(
        &pool_, backend_,
        SequenceCacheOptions{.formats = chain.request.policy.formats,
                             .open_group = free_open_groups_.back(),
                             .prompt_tokens = chain.prompt_tokens(),
                             .reserved_pages = chain.pages_reserved,
                             .selection = chain.policy->selection(),
                             .query_bytes = options_.query_bytes,
                             .sharing = chain.sharing});
    free_open_groups_.pop_back();
    chain.windows = Windows({.prompt_tokens = chain.prompt_tokens(),
                             .window_tokens = WindowTokensOf(chain.request.policy),
                             .one_segment = chain.policy->one_segment()});
    chain.stats.prompt_tokens = chain.prompt_tokens();
    chain.sparsity.resize(chain.request.policy.sparsity_layers.size());
    if (control_ != nullptr) {
      control_->Register({.sequence = chain.id,
                          .tenant = chain.request.tenant,
                          .policy = chain.request.policy,
                          .state = {},
                          .report_number = 0});
    }
    chains_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

absl::Status Engine::CommitEviction(Chain& chain) {
  const Segment* const segment = FindSegment(chain.cache->state(), chain.gradual->first_position);
  Anneal one = *chain.gradual;
  one.keep = std::max(one.keep, segment->live_count - 1);
  KV_ASSIGN_OR_RETURN(const uint32_t evicted, chain.cache->CommitAnneal(one));
  if (observer_ != nullptr) observer_->OnEvicted(evicted);
  if (one.keep == chain.gradual->keep) chain.gradual.reset();
  return absl::OkStatus();
}

absl::Status Engine::RunStep() {
  DecodeStep& step = steps_[turn_];
  model_seconds_ = 0;
  KV_RETURN_IF_ERROR(OrderStep(step));
  KV_RETURN_IF_ERROR(TakeTokens(steps_[1 - turn_]));
  FinishChains();
  KV_RETURN_IF_ERROR(CommitStep(step));
  turn_ = 1 - turn_;
  return absl::OkStatus();
}

template <typename Call>
auto Engine::InModel(const Call& call) {
  const Clock::Time start = clock_->Now();
  auto result = call();
  model_seconds_ += std::chrono::duration<double>(clock_->Now() - start).count();
  return result;
}

absl::Status Engine::OrderStep(DecodeStep& step) {
  step.Clear();
  const auto rows_max = static_cast<size_t>(model_->rows_max());
  for (const std::unique_ptr<Chain>& chain : chains_) {
    // What is too much for this step waits for the next.
    if (!chain->wants_step() || step.row_count() + chain->step_tokens() > rows_max) continue;
    step.Add(*chain);
  }
  if (step.empty()) return absl::OkStatus();
  return InModel([&] { return step.Start(*model_, *backend_); });
}

absl::Status Engine::TakeTokens(DecodeStep& step) {
  if (!step.running()) return absl::OkStatus();
  KV_ASSIGN_OR_RETURN(const absl::Span<const int32_t> tokens,
                      InModel([&] { return step.Await(*model_); }));
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (step.choosing()[i] != nullptr) TakeToken(*step.choosing()[i], tokens[i]);
  }
  return absl::OkStatus();
}

void Engine::TakeToken(Chain& chain, int32_t token) {
  if (token == kNoToken) {
    chain.finish = FinishReason::kError;
    chain.error = absl::DataLossError("a logit is not finite: the model or its cache is broken");
    return;
  }
  chain.unsent.push_back(token);
  ++chain.new_tokens;
  ++working_.tokens_decoded;
  // Else the step that runs has it already.
  if (chain.new_tokens == chain.ordered_tokens) chain.next_token = token;
  if (chain.finish.has_value()) return;
  const std::vector<int32_t>& stops = chain.request.stop_tokens;
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
    chain.finish = FinishReason::kStop;
  } else if (chain.new_tokens == chain.request.max_new_tokens) {
    chain.finish = FinishReason::kLength;
  }
}

absl::Status Engine::CommitStep(DecodeStep& step) {
  std::vector<Chain*> stepped, boundary;
  for (size_t i = 0; i < step.chains().size(); ++i) {
    if (step.chains()[i] == nullptr) continue;
    Chain& chain = *step.chains()[i];
    const uint32_t count = step.rows()[i].count;
    stepped.push_back(&chain);
    chain.cache->CommitAppend(count);
    if (chain.prefilling()) {
      chain.prompt_done += count;
      working_.tokens_prefilled += count;
    }
    if (step.views()[i].evict_from != kNoEviction) KV_RETURN_IF_ERROR(CommitEviction(chain));
    if (chain.cache->open_count() == kGroupTokens) boundary.push_back(&chain);
  }
  if (stepped.empty()) return absl::OkStatus();
  KV_RETURN_IF_ERROR(boundary_.SealGroups(boundary));
  KV_RETURN_IF_ERROR(InModel([&] { return step.refresh().Deliver(); }));
  KV_RETURN_IF_ERROR(boundary_.ReportAndPlan(boundary));
  CountStep(stepped);
  return absl::OkStatus();
}

void Engine::CountStep(absl::Span<Chain* const> chains) {
  ++working_.steps;
  uint64_t held_bytes = 0;
  for (Chain* chain : chains) {
    const uint64_t footprint = chain->cache->footprint_bytes();
    const uint64_t full = chain->cache->full_bytes();
    chain->stats.footprint_byte_steps += footprint;
    chain->stats.full_byte_steps += full;
    chain->stats.footprint_bytes_peak = std::max(chain->stats.footprint_bytes_peak, footprint);
    const uint32_t live = chain->cache->live_tokens();
    chain->stats.live_token_steps += live;
    chain->stats.live_tokens_peak = std::max(chain->stats.live_tokens_peak, live);
    ++chain->stats.steps;
    working_.full_byte_steps += full;
    held_bytes += footprint;
  }
  // Frames hold slack beside the pages, which the sequences' own sums do not see.
  working_.used_byte_steps += held_bytes + pool_.slack_bytes();
}

void Engine::FinishChains() {
  for (DecodeStep& step : steps_) step.LeaveOutEnded();
  for (const std::unique_ptr<Chain>& chain : chains_) {
    if (!chain->unsent.empty() || chain->finish.has_value()) SendEvents(*chain);
    if (!chain->finish.has_value()) continue;
    if (control_ != nullptr) control_->Finish(chain->id);
    const uint32_t open_group = chain->cache->open_group();
    // A group or page that could not be zeroed is never used again.
    if (chain->cache->Release().ok()) free_open_groups_.push_back(open_group);
  }
  chains_.erase(std::remove_if(chains_.begin(), chains_.end(),
                               [](const auto& chain) { return chain->finish.has_value(); }),
                chains_.end());
}

void Engine::SendEvents(Chain& chain) {
  GenerateEvent event;
  event.request = chain.id;
  event.tokens.assign(chain.unsent.begin(), chain.unsent.end());
  chain.unsent.clear();
  if (chain.finish.has_value()) {
    event.finished = chain.finish;
    event.error = chain.error;
    chain.stats.new_tokens = chain.new_tokens;
    if (chain.cache != nullptr) chain.stats.full_bytes_end = chain.cache->full_bytes();
    event.stats = chain.stats;
  }
  chain.sink(std::move(event));
  if (chain.finish.has_value()) --outstanding_;
}

void Engine::FailAll(const absl::Status& status) {
  // What has been chosen already is still sent, if it can be had.
  for (const size_t turn : {1 - turn_, turn_}) TakeTokens(steps_[turn]).IgnoreError();
  std::deque<std::unique_ptr<Chain>> waiting;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    waiting.swap(waiting_);
  }
  for (const std::unique_ptr<Chain>& chain : waiting) {
    chain->finish = FinishReason::kError;
    chain->error = status;
    SendEvents(*chain);
  }
  for (const std::unique_ptr<Chain>& chain : chains_) {
    if (chain->finish.has_value()) continue;
    chain->finish = FinishReason::kError;
    chain->error = status;
  }
  FinishChains();
  PublishSnapshot(/*force=*/true);
}

}  // namespace palimpsest
