// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/runner.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "services/cli/byte_budget.h"
#include "services/cli/likelihood/forced_model.h"
#include "services/cli/likelihood/judge.h"
#include "services/decode/engine/engine.h"
#include "services/decode/served_policies.h"

namespace palimpsest::cli {
namespace {

// How much of --bytes a policy may miss by holding more.
constexpr double kPercentSlack = 1.1;

// Chains of one text that run side by side: the full cache's and those of some points.
struct Unit {
  const LikelihoodJob* job = nullptr;
  std::vector<const GridPoint*> points;

  size_t chains() const { return points.size() + 1; }
};

// Selections do not depend on the budget, which may not be known yet.
Selection SelectionOf(const GridPoint& point) {
  return (*NewPolicy(*DefaultSpec(point.spec.name)))->selection();
}

std::vector<float> LaneSharesOf(const LikelihoodOptions& options) {
  return options.codebook == nullptr ? std::vector<float>() : options.codebook->lane_shares;
}

// Points of different needs are run apart: nobody pays for what he does not use.
std::map<ChainNeeds, std::vector<Unit>> MakeUnits(const std::vector<LikelihoodJob>& jobs,
                                                  uint32_t batch) {
  std::map<ChainNeeds, std::vector<Unit>> units;
  for (const LikelihoodJob& job : jobs) {
    std::map<ChainNeeds, Unit> filling;
    for (const GridPoint* point : job.points) {
      const ChainNeeds needs = NeedsOf(SelectionOf(*point));
      Unit& unit = filling.try_emplace(needs, Unit{&job, {}}).first->second;
      if (unit.chains() == batch) units[needs].push_back(std::exchange(unit, {&job, {}}));
      unit.points.push_back(point);
    }
    for (auto& [needs, unit] : filling) units[needs].push_back(std::move(unit));
  }
  return units;
}

// One device with what these units want of it, and the engine over it.
class Session {
 public:
  Session(const LikelihoodOptions& options, const ChainNeeds& needs, std::vector<Unit> units,
          const PointHandler& on_point, const StepHandler& on_step, uint64_t* rows_compared)
      : options_(options),
        needs_(needs),
        units_(std::move(units)),
        on_point_(on_point),
        on_step_(on_step),
        rows_compared_(rows_compared),
        judge_(options.threads) {}

  absl::Status Run() {
    KV_RETURN_IF_ERROR(Build());
    size_t next = 0;
    uint32_t prefill_steps = 0;  // until the unit that started last has read its prompt
    while (next < units_.size() || !active_.empty()) {
      // A unit starts when it can as a whole, for its chains must stay side by side; and no two
      // read their prompts at once, which bounds the rows of a step.
      if (prefill_steps > 0) --prefill_steps;
      if (prefill_steps == 0 && next < units_.size() &&
          active_.size() + units_[next].chains() <= batch_) {
        KV_RETURN_IF_ERROR(Start(units_[next++]));
        prefill_steps = (options_.prompt_tokens + kGroupTokens - 1) / kGroupTokens;
      }
      KV_RETURN_IF_ERROR(engine_->Step().status());
      KV_RETURN_IF_ERROR(error_);
      KV_RETURN_IF_ERROR(on_step_(*rows_compared_));
    }
    return absl::OkStatus();
  }

 private:
  struct Active {
    const LikelihoodJob* job = nullptr;
    const GridPoint* point = nullptr;  // null: the full cache
    uint64_t chain = 0;                // as the judge knows it
    uint32_t budget_tokens = 0;
  };

  // The policy of a point for a text; the full cache's for null.
  absl::StatusOr<PolicySpec> SpecOf(const GridPoint* point, const LikelihoodText& text) {
    if (point == nullptr) return DefaultSpec("full");
    const auto [known, fresh] = specs_.try_emplace({point, text.tokens.size()});
    if (fresh) {
      KV_ASSIGN_OR_RETURN(known->second, ResolvePoint(options_, *point, text));
    }
    return known->second;
  }

  // Bytes that a chain's pages may come to, generously: each class of thoughts may begin a page of
  // its own.
  absl::StatusOr<uint64_t> PageBytes(const GridPoint* point, const LikelihoodText& text) {
    KV_ASSIGN_OR_RETURN(const PolicySpec spec, SpecOf(point, text));
    const uint64_t all = text.tokens.size();
    const uint64_t bounded =
        uint64_t{options_.prompt_tokens} + spec.budget_tokens + 2ull * WindowTokensOf(spec);
    const uint64_t pages = std::min(all, bounded) / kSlotsPerPage + 2 * kThoughtCount;
    uint64_t page_bytes = 0;
    for (const Thought thought : kThoughts) {
      page_bytes = std::max<uint64_t>(page_bytes,
                                      MakePageLayout(shape_, spec.formats.of(thought)).page_bytes);
    }
    return pages * page_bytes;
  }

  // What the largest units that fit a batch can want together.
  absl::StatusOr<uint64_t> PoolBytes() {
    if (options_.pool_bytes > 0) return options_.pool_bytes;
    double per_chain_max = 0;  // of a unit, averaged over its chains
    for (const Unit& unit : units_) {
      KV_ASSIGN_OR_RETURN(uint64_t bytes, PageBytes(nullptr, *unit.job->text));
      for (const GridPoint* point : unit.points) {
        KV_ASSIGN_OR_RETURN(const uint64_t more, PageBytes(point, *unit.job->text));
        bytes += more;
      }
      per_chain_max =
          std::max(per_chain_max, static_cast<double>(bytes) / static_cast<double>(unit.chains()));
    }
    // Frames waste up to 4 % of themselves, and those of each pair of formats end partly empty.
    const auto bytes = static_cast<uint64_t>(per_chain_max * static_cast<double>(batch_));
    return bytes + bytes / 8 + 24 * ChooseFrameBytes(shape_);
  }

  absl::Status Build() {
    size_t largest = 0, all = 0;
    bool queries = false;
    for (const Unit& unit : units_) {
      largest = std::max(largest, unit.chains());
      all += unit.chains();
      for (const GridPoint* point : unit.points)
        queries |= NeedsQueries(SelectionOf(*point).selector);
    }
    batch_ = static_cast<uint32_t>(std::min<size_t>(options_.batch, all));
    const uint32_t query_window = queries ? kQueriesKept : 0;
    DeviceOptions device{.choice = options_.device,
                         .source = options_.source,
                         .open_groups = batch_,
                         .rows_max = static_cast<int>(batch_ + largest * (kGroupTokens - 1)),
                         .logit_rows_max = static_cast<int>(batch_),
                         .slot_scores = needs_.slot_scores,
                         .residue = needs_.residue,
                         .query_window = query_window,
                         .rotate_keys = options_.rotate_keys,
                         .codebook = options_.codebook,
                         .threads = options_.threads,
                         .log = options_.log};
    shape_ = BackendConfigOf(device).shape;
    query_bytes_ = QueryWindowBytes(shape_, options_.source.config.query_heads, query_window);
    KV_ASSIGN_OR_RETURN(const uint64_t pool_bytes, PoolBytes());
    KV_ASSIGN_OR_RETURN(PagePool pool,
                        PagePool::Create({.shape = shape_, .pool_bytes = pool_bytes}));
    device.pool_bytes = pool.capacity_bytes();
    KV_ASSIGN_OR_RETURN(Device made, NewDevice(device));
    device_ = made.name;
    backend_ = NewTimedBackend(std::move(made.backend), clock_.get(), made.asynchronous);
    model_ = std::move(made.model);
    const auto compare = [this](absl::Span<const ForcedRow> rows) {
      *rows_compared_ += rows.size();
      return judge_.Take(rows);
    };
    forced_ = std::make_unique<ForcedModel>(model_.get(), compare, options_.every);
    EngineOptions engine{.batch_max = batch_,
                         .sparsity_layers = options_.sparsity_layers,
                         .theta = options_.theta,
                         .query_bytes = query_bytes_,
                         .lane_shares = LaneSharesOf(options_)};
    engine_ = std::make_unique<Engine>(engine, forced_.get(), backend_.get(), std::move(pool),
                                       nullptr, clock_.get(), nullptr);
    return absl::OkStatus();
  }

  absl::Status Start(const Unit& unit) {
    const std::vector<int32_t>& tokens = unit.job->text->tokens;
    std::vector<GenerateRequest> requests;
    std::vector<Active> starting;
    std::vector<const GridPoint*> points = {nullptr};
    points.insert(points.end(), unit.points.begin(), unit.points.end());
    for (const GridPoint* point : points) {
      const uint64_t chain = forced_->Add(tokens);
      judge_.Add(chain, starting.empty() ? chain : starting.front().chain);
      GenerateRequest request;
      request.prompt.assign(tokens.begin(), tokens.begin() + options_.prompt_tokens);
      request.max_new_tokens = static_cast<uint32_t>(tokens.size()) - options_.prompt_tokens;
      request.sampling.seed = chain;
      KV_ASSIGN_OR_RETURN(request.policy, SpecOf(point, *unit.job->text));
      const bool bounded = point != nullptr && point->bounded;
      starting.push_back({unit.job, point, chain, bounded ? request.policy.budget_tokens : 0});
      requests.push_back(std::move(request));
    }
    const std::vector<Admission> admissions =
        engine_->Submit(std::move(requests), [this](const GenerateEvent& event) { Hear(event); });
    for (size_t i = 0; i < admissions.size(); ++i) {
      KV_RETURN_IF_ERROR(admissions[i].status);
      active_[admissions[i].request] = starting[i];
    }
    return absl::OkStatus();
  }

  void Hear(const GenerateEvent& event) {
    if (!event.finished.has_value()) return;
    const Active ended = active_[event.request];
    active_.erase(event.request);
    if (*event.finished != FinishReason::kLength) {
      error_.Update(event.error.ok() ? absl::InternalError("a chain ended before its text")
                                     : event.error);
      return;
    }
    const std::vector<Divergence> positions = judge_.Finish(ended.chain);
    if (ended.point == nullptr) return;
    const RequestStats& stats = *event.stats;
    const auto ratio = [](auto part, auto whole) {
      return static_cast<double>(part) / static_cast<double>(whole);
    };
    PointResult found;
    found.device = device_;
    found.tokens = static_cast<uint32_t>(ended.job->text->tokens.size());
    found.budget_tokens = ended.budget_tokens;
    found.divergence = Summarise(positions);
    found.bytes_percent_mean = 100 * ratio(stats.footprint_byte_steps, stats.full_byte_steps);
    found.bytes_percent_peak = 100 * ratio(stats.footprint_bytes_peak, stats.full_bytes_end);
    found.live_tokens_mean = ratio(stats.live_token_steps, stats.steps);
    found.live_tokens_peak = stats.live_tokens_peak;
    error_.Update(on_point_(*ended.job, *ended.point, std::move(found)));
  }

  const LikelihoodOptions& options_;
  const ChainNeeds needs_;
  const std::vector<Unit> units_;
  const PointHandler& on_point_;
  const StepHandler& on_step_;
  uint64_t* const rows_compared_;
  Judge judge_;
  std::unique_ptr<Clock> clock_ = NewSteadyClock();
  CacheShape shape_;
  uint64_t query_bytes_ = 0;
  uint32_t batch_ = 0;
  // Known already, by length of the text.
  std::map<std::pair<const GridPoint*, size_t>, PolicySpec> specs_;
  std::string device_;
  std::unique_ptr<TimedBackend> backend_;
  std::unique_ptr<Model> model_;  // may use the backend's device
  std::unique_ptr<ForcedModel> forced_;
  std::unique_ptr<Engine> engine_;
  std::map<RequestId, Active> active_;
  absl::Status error_;
};

absl::Status CheckJobs(const LikelihoodOptions& options, const std::vector<LikelihoodJob>& jobs) {
  std::vector<std::string> names;
  for (const LikelihoodJob& job : jobs) {
    for (const GridPoint* point : job.points) names.push_back(point->spec.name);
  }
  return names.empty() ? absl::OkStatus()
                       : ServePolicies(names, options.codebook != nullptr).status();
}

}  // namespace

absl::StatusOr<PolicySpec> ResolvePoint(const LikelihoodOptions& options, const GridPoint& point,
                                        const LikelihoodText& text) {
  PolicySpec spec = point.spec;
  if (!point.target_percent.has_value()) return spec;
  // The last token is chosen, but never gets into a cache.
  const ChainLength chain{.prompt_tokens = options.prompt_tokens,
                          .tokens = static_cast<uint32_t>(text.tokens.size()) - 1};
  const CacheCosts costs{.shape = options.source.config.cache_shape(),
                         .query_heads = options.source.config.query_heads,
                         .lane_shares = LaneSharesOf(options)};
  KV_ASSIGN_OR_RETURN(const ByteBudget budget,
                      BudgetForBytes(spec, costs, {&chain, 1}, *point.target_percent));
  if (budget.percent > kPercentSlack * *point.target_percent) {
    return absl::OutOfRangeError(absl::StrFormat(
        "%s at %s of the full cache's bytes is out of reach for a text of %d tokens, the least is "
        "%.2f%%",
        spec.name, point.BudgetLabel(), text.tokens.size(), budget.percent));
  }
  spec.budget_tokens = budget.budget_tokens;
  return spec;
}

absl::Status CompareCaches(const LikelihoodOptions& options, const std::vector<LikelihoodJob>& jobs,
                           const PointHandler& on_point, const StepHandler& on_step) {
  KV_RETURN_IF_ERROR(CheckJobs(options, jobs));
  uint64_t rows_compared = 0;
  for (auto& [needs, units] : MakeUnits(jobs, options.batch)) {
    Session session(options, needs, std::move(units), on_point, on_step, &rows_compared);
    KV_RETURN_IF_ERROR(session.Run());
  }
  return absl::OkStatus();
}

uint64_t RowsToCompare(const LikelihoodOptions& options, const std::vector<LikelihoodJob>& jobs) {
  const auto multiples_below = [&](size_t end) {
    return (end + options.every - 1) / options.every;
  };
  uint64_t rows = 0;
  for (const auto& [needs, units] : MakeUnits(jobs, options.batch)) {
    for (const Unit& unit : units) {
      rows += unit.chains() * (multiples_below(unit.job->text->tokens.size()) -
                               multiples_below(options.prompt_tokens));
    }
  }
  return rows;
}

}  // namespace palimpsest::cli
