// SPDX-License-Identifier: Apache-2.0
// What is asked of the engine, checked on the asker's thread: only constants of the pool and the
// model are looked at before the lock is taken.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/name.h"
#include "common/base/status_macros.h"
#include "services/decode/engine/engine.h"

namespace palimpsest {
namespace {

constexpr uint32_t kRetryAfterMs = 1000;

}  // namespace

absl::Status Engine::CheckRequest(const GenerateRequest& request) const {
  const ModelConfig& config = model_->config();
  if (!IsName(request.tenant)) {
    return absl::InvalidArgumentError(absl::StrCat("tenant: expected ", kNameRule));
  }
  if (request.prompt.empty()) return absl::InvalidArgumentError("prompt: expected a token");
  if (request.max_new_tokens == 0) {
    return absl::InvalidArgumentError("max_new_tokens: expected at least 1");
  }
  const uint64_t total = static_cast<uint64_t>(request.prompt.size()) + request.max_new_tokens;
  if (total > static_cast<uint64_t>(config.max_positions)) {
    return absl::InvalidArgumentError(absl::StrCat("prompt and max_new_tokens: ", total,
                                                   " tokens, the model takes at most ",
                                                   config.max_positions));
  }
  for (const int32_t token : request.prompt) {
    if (token < 0 || token >= config.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "prompt: token ", token, " is not in the vocabulary of ", config.vocab_size));
    }
  }
  const std::vector<std::string>& served = options_.policies;
  if (!served.empty() &&
      std::find(served.begin(), served.end(), request.policy.name) == served.end()) {
    return absl::InvalidArgumentError(absl::StrCat("policy.name: this worker does not serve '",
                                                   request.policy.name, "'; its --policies are ",
                                                   absl::StrJoin(served, ", ")));
  }
  for (const uint32_t layer : request.policy.sparsity_layers) {
    if (layer >= static_cast<uint32_t>(config.layers)) {
      return absl::InvalidArgumentError(
          absl::StrCat("policy.sparsity_layers: layer ", layer, ", the model has ", config.layers));
    }
    if (!model_->may_observe(static_cast<int>(layer))) {
      return absl::InvalidArgumentError(
          absl::StrCat("policy.sparsity_layers: layer ", layer,
                       " is not one whose queries this worker's device keeps"));
    }
  }
  return CheckSamplingParams(request.sampling);
}

// What a chain is sure to need at most, in pages of class R: all its tokens, or, where its policy
// evicts, the prompt, the budget, and two windows of plans on their way. An uneven one never gets
// more than its lanes may hold.
uint32_t Engine::PagesToReserve(const GenerateRequest& request, const LaneSharing& sharing) {
  if (!sharing.shares.empty()) {
    return LaneLedger(sharing, static_cast<uint32_t>(request.prompt.size())).pages_max();
  }
  const uint64_t prompt = request.prompt.size();
  const uint64_t all = prompt + request.max_new_tokens;
  const uint64_t bounded =
      prompt + request.policy.budget_tokens + 2ull * WindowTokensOf(request.policy) + kSlotsPerPage;
  return static_cast<uint32_t>((std::min(all, bounded) + kSlotsPerPage - 1) / kSlotsPerPage);
}

absl::Status Engine::Accept(GenerateRequest request, Chain& chain) const {
  KV_RETURN_IF_ERROR(CheckRequest(request));
  KV_ASSIGN_OR_RETURN(chain.policy, NewPolicy(request.policy));
  const auto prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  const bool plans_lag = control_ != nullptr && !options_.lockstep;
  chain.sharing = SharingUnder(request.policy, *chain.policy,
                               {.shares = options_.lane_shares,
                                .lag_tokens = plans_lag ? kPlanLagTokens : 0,
                                .tokens_max = prompt_tokens + request.max_new_tokens},
                               prompt_tokens);
  chain.pages_reserved = PagesToReserve(request, chain.sharing);
  if (!pool_.FitsEmpty(request.policy.formats.of(Thought::kReasoning), chain.pages_reserved)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the page pool of ", pool_.capacity_bytes(),
                     " bytes cannot hold this request even when empty; raise pool-bytes or lower "
                     "max_new_tokens or the budget"));
  }
  chain.request = std::move(request);
  return absl::OkStatus();
}

std::vector<Admission> Engine::Submit(std::vector<GenerateRequest> requests,
                                      const EventSink& sink) {
  std::vector<Admission> admissions(requests.size());
  std::vector<std::unique_ptr<Chain>> accepted(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    if (requests[i].policy.theta.empty()) {
      requests[i].policy.sparsity_layers = options_.sparsity_layers;
      requests[i].policy.theta = options_.theta;
    }
    auto chain = std::make_unique<Chain>();
    admissions[i].status = Accept(std::move(requests[i]), *chain);
    if (!admissions[i].status.ok()) continue;
    chain->sink = sink;
    accepted[i] = std::move(chain);
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  for (size_t i = 0; i < accepted.size(); ++i) {
    if (accepted[i] == nullptr) continue;
    if (draining_ || stop_) {
      admissions[i] = {absl::UnavailableError("the worker is draining"), 0, kRetryAfterMs};
    } else if (waiting_.size() >= options_.waiting_max) {
      admissions[i] = {absl::ResourceExhaustedError(
                           absl::StrCat(options_.waiting_max, " requests are waiting already")),
                       0, kRetryAfterMs};
    } else {
      admissions[i].request = accepted[i]->id = next_id_++;
      waiting_.push_back(std::move(accepted[i]));
      ++outstanding_;
    }
  }
  wake_.notify_one();
  if (observer_ != nullptr) {
    for (const Admission& admission : admissions) {
      if (!admission.status.ok()) observer_->OnRefused(admission.status);
    }
  }
  return admissions;
}

}  // namespace palimpsest
