// SPDX-License-Identifier: Apache-2.0
#include "services/decode/engine/boundary.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "services/decode/engine/pressure.h"
#include "services/decode/model/counter_random.h"

namespace palimpsest {
namespace {

constexpr size_t kReportsOpenMax = 256;

double Seconds(Clock::Duration duration) { return std::chrono::duration<double>(duration).count(); }

// Mixes one number into a running hash.
void Mix(uint64_t& hash, uint64_t value) { hash = MixBits(hash + value); }

void MixPlan(uint64_t& hash, uint32_t sealed_tokens, const Plan& plan) {
  if (plan.empty()) return;
  Mix(hash, sealed_tokens);
  Mix(hash, plan.next_label.has_value() ? 1 + Index(*plan.next_label) : 0);
  for (const Anneal& anneal : plan.anneals) {
    Mix(hash, anneal.first_position);
    Mix(hash, anneal.keep);
  }
}

// Adds a later plan to an earlier one. One anneal a segment remains, the lower.
void Merge(Plan& plan, const Plan& later) {
  if (later.next_label.has_value()) plan.next_label = later.next_label;
  for (const Anneal& anneal : later.anneals) {
    auto same = std::find_if(plan.anneals.begin(), plan.anneals.end(), [&](const Anneal& a) {
      return a.first_position == anneal.first_position;
    });
    if (same == plan.anneals.end()) {
      plan.anneals.push_back(anneal);
    } else {
      same->keep = std::min(same->keep, anneal.keep);
      same->demotions = std::max(same->demotions, anneal.demotions);
    }
  }
}

// Leaves an anneal to the steps to come, unless there is nothing to do.
void Delay(Chain& chain, const Anneal& anneal) {
  const Segment* const segment = FindSegment(chain.cache->state(), anneal.first_position);
  chain.gradual.reset();
  if (segment->live_count > anneal.keep) chain.gradual = anneal;
}

}  // namespace

BoundaryWork::BoundaryWork(const Options& options, Backend* backend, ControlPlane* control,
                           const Clock* clock, EngineObserver* observer)
    : options_(options), backend_(backend), control_(control), clock_(clock), observer_(observer) {}

absl::Status BoundaryWork::SealGroups(absl::Span<Chain* const> chains) {
  if (chains.empty()) return absl::OkStatus();
  std::vector<Decided> arrived;
  for (Chain* chain : chains) {
    if (chain->plans_waiting.empty()) continue;
    arrived.push_back(TakeStorePlans(*chain, std::exchange(chain->plans_waiting, {})));
  }
  KV_RETURN_IF_ERROR(Apply(absl::MakeSpan(arrived)));
  return Seal(chains);
}

absl::Status BoundaryWork::ReportAndPlan(absl::Span<Chain* const> chains) {
  if (chains.empty()) return absl::OkStatus();
  Report(chains);
  return PlanNow(chains);
}

BoundaryWork::Decided BoundaryWork::TakeStorePlans(Chain& chain, std::vector<StorePlan> plans) {
  Plan merged;
  const Clock::Time now = clock_->Now();
  for (StorePlan& plan : plans) {
    if (plan.plan_number <= chain.plan_number) continue;  // a duplicate
    chain.plan_number = plan.plan_number;
    // A label decided for a window that has ended since says nothing about this one.
    if (plan.report_number < chain.refresh_report) plan.plan.next_label.reset();
    Merge(merged, plan.plan);
    double lag_seconds = 0;
    while (!chain.reports_open.empty() && chain.reports_open.front().number <= plan.report_number) {
      const Chain::ReportTime report = chain.reports_open.front();
      chain.reports_open.pop_front();
      if (report.number != plan.report_number) continue;
      lag_seconds = Seconds(now - report.sent);
      chain.stats.plan_lag_tokens_max =
          std::max(chain.stats.plan_lag_tokens_max, chain.cache->token_count() - report.tokens);
    }
    chain.stats.plan_lag_seconds_sum += lag_seconds;
    chain.stats.plan_lag_seconds_max = std::max(chain.stats.plan_lag_seconds_max, lag_seconds);
    if (observer_ != nullptr) observer_->OnPlan(plan.plan, /*local=*/false, lag_seconds);
    ++chain.stats.plans_applied;
  }
  return {.chain = &chain, .plan = std::move(merged), .from_store = true};
}

absl::Status BoundaryWork::Apply(absl::Span<Decided> decided) {
  std::vector<SequenceView> views;
  std::vector<AnnealOrder> orders;
  for (Decided& of : decided) {
    Chain& chain = *of.chain;
    MixPlan(chain.stats.plan_hash, chain.cache->state().sealed_tokens(), of.plan);
    // What cannot be done here (a segment this chain does not have, or the prompt) is left out:
    // the acknowledgement then tells the store, which asks for a snapshot.
    std::vector<Anneal>& anneals = of.plan.anneals;
    const auto impossible = [&](const Anneal& anneal) {
      Selection selection = chain.policy->selection();
      if (of.at_once && IsGradual(selection.selector)) selection = {Selector::kMostRecent};
      const absl::StatusOr<AnnealOrder> order =
          chain.cache->PlanAnneal(anneal, selection, static_cast<uint32_t>(views.size()));
      if (!order.ok()) return true;
      if (IsGradual(order->selection.selector)) {
        Delay(chain, anneal);
      } else if (chain.cache->Lowers(anneal)) {
        orders.push_back(*order);
      }
      return false;
    };
    anneals.erase(std::remove_if(anneals.begin(), anneals.end(), impossible), anneals.end());
    if (!anneals.empty()) views.push_back(chain.cache->view());
  }
  if (!orders.empty()) KV_RETURN_IF_ERROR(backend_->Anneal(views, orders));
  for (Decided& of : decided) {
    Chain& chain = *of.chain;
    KV_RETURN_IF_ERROR(CommitPlan(chain, of.plan));
    // The counts cover every plan merged: one acknowledgement, of the newest, is enough.
    if (of.from_store) {
      control_->Acknowledge({chain.id, chain.plan_number, std::move(of.plan.anneals)});
    }
  }
  return absl::OkStatus();
}

absl::Status BoundaryWork::CommitPlan(Chain& chain, Plan& plan) {
  uint32_t evicted = 0;
  for (Anneal& anneal : plan.anneals) {
    // The steps to come carry it out, and acknowledging it now is true enough: they will.
    if (chain.gradual == anneal) continue;
    KV_ASSIGN_OR_RETURN(const uint32_t count, chain.cache->CommitAnneal(anneal));
    evicted += count;
    anneal.keep = FindSegment(chain.cache->state(), anneal.first_position)->live_count;
  }
  if (observer_ != nullptr && evicted > 0) observer_->OnEvicted(evicted);
  if (!plan.next_label.has_value()) return absl::OkStatus();
  chain.label = *plan.next_label;
  if (observer_ != nullptr) observer_->OnLabel(chain.label);
  return absl::OkStatus();
}

absl::Status BoundaryWork::Seal(absl::Span<Chain* const> chains) {
  sealed_.assign(chains.size(), {});
  std::vector<Chain*> ready;
  std::vector<size_t> ready_index;
  std::vector<Thought> labels;
  std::vector<SealOrder> orders;
  for (size_t i = 0; i < chains.size(); ++i) {
    Thought thought = chains[i]->label;
    const absl::Status room = MakeRoom(*chains[i], thought);
    if (absl::IsResourceExhausted(room)) {
      chains[i]->finish = FinishReason::kError;
      chains[i]->error = room;
      continue;
    }
    KV_RETURN_IF_ERROR(room);
    orders.push_back({.sequence = static_cast<uint32_t>(ready.size()),
                      .thought = chains[i]->cache->PagesOf(thought)});
    labels.push_back(thought);
    ready.push_back(chains[i]);
    ready_index.push_back(i);
  }
  std::vector<SequenceView> views;
  views.reserve(ready.size());
  for (const Chain* chain : ready) views.push_back(chain->cache->view());
  if (!orders.empty()) KV_RETURN_IF_ERROR(backend_->Seal(views, orders));
  for (size_t i = 0; i < ready.size(); ++i) {
    Chain& chain = *ready[i];
    Sealed& sealed = sealed_[ready_index[i]];
    sealed.runs = chain.cache->CommitSeal(labels[i], chain.windows.starts());
    const uint32_t tokens = chain.cache->state().sealed_tokens();
    sealed.refresh = chain.windows.Seal(sealed.runs.back(), tokens);
    if (sealed.refresh) chain.stats.timeline += Letter(chain.label)[0];
    sealed.done = true;
  }
  return absl::OkStatus();
}

absl::Status BoundaryWork::MakeRoom(Chain& chain, Thought& thought) {
  absl::StatusOr<SealOrder> order = chain.cache->PlanSeal(thought, 0);
  if (!absl::IsResourceExhausted(order.status())) return order.status();
  // The pool is full, or a lane holds all that it may. The chain's own policy first: a plan may be
  // late. Where lanes differ one is, the last window's.
  const bool overdue = chain.cache->uneven();
  Decided late{.chain = &chain, .plan = PlanLocally(chain, /*refresh=*/overdue), .at_once = true};
  // An overdue plan is on its way from the store, which has recorded it.
  if (!overdue && !late.plan.empty()) chain.resync = true;
  late.plan.next_label.reset();  // which was for a window to come
  KV_RETURN_IF_ERROR(Apply(absl::MakeSpan(&late, 1)));
  order = chain.cache->PlanSeal(thought, 0);
  if (!absl::IsResourceExhausted(order.status())) return order.status();
  std::array<uint32_t, kThoughtCount> dead{};
  for (const Thought t : kThoughts) dead[Index(t)] = chain.cache->DeadSlots(t);
  const std::optional<Relief> relief =
      PlanRelief(chain.cache->state(), thought, chain.cache->open_count(), dead);
  if (!relief.has_value()) {
    return absl::ResourceExhaustedError(
        "page pool is full and this chain has nothing left to give; raise pool-bytes or lower "
        "the budget or the batch");
  }
  ++chain.stats.pressure_reliefs;
  chain.resync = true;
  Decided give{.chain = &chain,
               .plan = {.next_label = std::nullopt, .anneals = relief->anneals},
               .at_once = true};
  chain.gradual.reset();  // what is left of it is no longer what was counted on
  KV_RETURN_IF_ERROR(Apply(absl::MakeSpan(&give, 1)));
  thought = relief->seal_as;
  return chain.cache->PlanSeal(thought, 0).status();
}

void BoundaryWork::Report(absl::Span<Chain* const> chains) {
  const Clock::Time now = clock_->Now();
  for (size_t i = 0; i < chains.size(); ++i) {
    Chain& chain = *chains[i];
    if (!sealed_[i].done) continue;
    ++chain.report_number;
    if (sealed_[i].refresh) chain.refresh_report = chain.report_number;
    if (control_ == nullptr) continue;
    if (chain.reports_open.size() == kReportsOpenMax) chain.reports_open.pop_front();
    chain.reports_open.push_back({chain.report_number, now, chain.cache->token_count()});
    SequenceReport report{.sequence = chain.id,
                          .report_number = chain.report_number,
                          .sealed = std::move(sealed_[i].runs),
                          .refresh = sealed_[i].refresh,
                          .sparsity = {},
                          .wants_answer = options_.lockstep};
    if (report.refresh) report.sparsity = chain.sparsity;
    control_->Report(std::move(report));
  }
}

absl::Status BoundaryWork::PlanNow(absl::Span<Chain* const> chains) {
  const bool connected = control_ != nullptr && control_->state() == StoreState::kConnected;
  if (connected && !options_.lockstep) return absl::OkStatus();  // plans come when they come
  std::vector<Decided> decided;
  for (size_t i = 0; i < chains.size(); ++i) {
    Chain& chain = *chains[i];
    if (!sealed_[i].done) continue;
    if (connected) {
      std::optional<StorePlan> plan =
          control_->AwaitPlan(chain.id, chain.report_number, options_.lockstep_deadline);
      if (plan.has_value()) {
        decided.push_back(TakeStorePlans(chain, {*std::move(plan)}));
        continue;
      }
    }
    Plan plan = PlanLocally(chain, sealed_[i].refresh);
    if (plan.empty()) continue;
    chain.resync = true;  // the store, should there be one, has not heard of this
    decided.push_back({.chain = &chain, .plan = std::move(plan)});
  }
  return Apply(absl::MakeSpan(decided));
}

Plan BoundaryWork::PlanLocally(Chain& chain, bool refresh) {
  const Observation observation{.refresh = refresh, .sparsity = chain.sparsity};
  Plan plan = chain.policy->Decide(chain.cache->state(), observation);
  if (plan.empty()) return plan;
  ++chain.stats.plans_applied;
  ++chain.stats.plans_local;
  if (observer_ != nullptr) observer_->OnPlan(plan, /*local=*/true, 0);
  return plan;
}

}  // namespace palimpsest
