// SPDX-License-Identifier: Apache-2.0
#include "services/cli/calibrate/sampler.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "common/base/status_macros.h"
#include "services/decode/pool/sequence_cache.h"

namespace palimpsest::cli {
namespace {

constexpr ClassFormats kBf16 = ClassFormats::Uniform({Format::kBf16, Format::kBf16});

struct Chain {
  size_t index = 0;  // into the prompts and the runs
  uint32_t prompt_done = 0;
  uint32_t generated = 0;
  int32_t next_token = 0;
  bool ended = false;
  std::unique_ptr<SequenceCache> cache;
};

// Looks at the chains of one step that are due, in every layer.
class Observer final : public LayerObserver {
 public:
  // runs[i] gets what is measured for the step's StepRows of index due[i].
  Observer(const Device& device, absl::Span<const int> layers, std::vector<uint32_t> due,
           std::vector<SparsityRun*> runs, QuerySamples* queries)
      : device_(device),
        layers_(layers),
        due_(std::move(due)),
        runs_(std::move(runs)),
        queries_(queries) {}

  absl::Span<const int> layers() const override {
    return due_.empty() && queries_->kept().empty() ? absl::Span<const int>() : layers_;
  }

  absl::Status AfterAttend(int layer, const LayerActivations& io) override {
    if (!due_.empty()) KV_RETURN_IF_ERROR(Measure(layer, io));
    return queries_->kept().empty() ? absl::OkStatus() : Keep(layer, io);
  }

 private:
  absl::Status Measure(int layer, const LayerActivations& io) {
    std::vector<float> sparsity(due_.size());
    Backend& backend = *device_.backend;
    KV_RETURN_IF_ERROR(backend.MeasureSparsity(layer, due_, io, absl::MakeSpan(sparsity)));
    KV_RETURN_IF_ERROR(backend.Synchronize());
    for (size_t i = 0; i < runs_.size(); ++i) runs_[i]->by_layer[layer].push_back(sparsity[i]);
    return absl::OkStatus();
  }

  absl::Status Keep(int layer, const LayerActivations& io) {
    const ActivationType type = device_.backend->activation_type();
    const size_t row_bytes = static_cast<size_t>(device_.model->config().query_size()) *
                             (type == ActivationType::kFloat32 ? 4 : 2);
    activations_.resize((queries_->kept().back().row + 1) * row_bytes);
    KV_RETURN_IF_ERROR(device_.read_activations(io.q, absl::MakeSpan(activations_)));
    queries_->Take(layer, type, activations_.data());
    return absl::OkStatus();
  }

  const Device& device_;
  absl::Span<const int> layers_;
  std::vector<uint32_t> due_;
  std::vector<SparsityRun*> runs_;
  QuerySamples* queries_;
  std::vector<uint8_t> activations_;
};

class Sampler {
 public:
  Sampler(const Device& device, PagePool* pool, absl::Span<const SampledPrompt> prompts,
          const SamplerOptions& options, QuerySamples* queries)
      : device_(device),
        model_(device.model.get()),
        backend_(device.backend.get()),
        pool_(pool),
        prompts_(prompts),
        options_(options),
        queries_(queries),
        layers_(static_cast<size_t>(model_->config().layers)),
        order_(prompts.size()) {
    std::iota(layers_.begin(), layers_.end(), 0);
    // Longest first: a long chain that starts last would run alone in the end.
    std::iota(order_.begin(), order_.end(), size_t{0});
    std::stable_sort(order_.begin(), order_.end(), [&](size_t a, size_t b) {
      return prompts[a].max_new_tokens > prompts[b].max_new_tokens;
    });
    runs_.sparsity.resize(prompts.size());
    runs_.written.resize(prompts.size());
    for (SparsityRun& run : runs_.sparsity) run.by_layer.resize(layers_.size());
    for (uint32_t i = options.batch; i > 0; --i) free_open_groups_.push_back(i - 1);
  }

  absl::StatusOr<SampledRuns> Run(const SamplerHandler& on_step) {
    while (progress_.prompts_done < prompts_.size()) {
      Admit();
      KV_RETURN_IF_ERROR(Step());
      KV_RETURN_IF_ERROR(SealFullGroups());
      KV_RETURN_IF_ERROR(Retire());
      KV_RETURN_IF_ERROR(on_step(progress_));
    }
    return std::move(runs_);
  }

 private:
  void Admit() {
    while (next_ < prompts_.size() && !free_open_groups_.empty()) {
      Chain chain;
      chain.index = order_[next_++];
      chain.cache = std::make_unique<SequenceCache>(
          pool_, backend_,
          SequenceCacheOptions{
              .formats = kBf16,
              .open_group = free_open_groups_.back(),
              .prompt_tokens = static_cast<uint32_t>(prompts_[chain.index].tokens.size())});
      free_open_groups_.pop_back();
      chains_.push_back(std::move(chain));
    }
  }

  bool IsDue(const Chain& chain) const {
    return chain.generated >= options_.first_step &&
           (chain.generated - options_.first_step) % options_.every == 0;
  }

  // One ragged step: a token of each decoding chain, a group of each prompt that is being read.
  absl::Status Step() {
    std::vector<SequenceView> views;
    std::vector<StepRows> rows;
    std::vector<int32_t> tokens;
    std::vector<uint32_t> logit_rows, due;
    std::vector<Chain*> stepping, sampling;
    std::vector<SparsityRun*> due_runs;
    std::vector<KeptToken> kept;
    for (Chain& chain : chains_) {
      const std::vector<int32_t>& prompt = prompts_[chain.index].tokens;
      const auto left = static_cast<uint32_t>(prompt.size()) - chain.prompt_done;
      const uint32_t room = kGroupTokens - chain.cache->open_count();
      const uint32_t count = left > 0 ? std::min(left, room) : 1;
      const auto row = static_cast<uint32_t>(tokens.size());
      if (row + count > static_cast<uint32_t>(model_->rows_max())) break;
      rows.push_back({.sequence = static_cast<uint32_t>(views.size()), .row = row, .count = count});
      views.push_back(chain.cache->view());
      stepping.push_back(&chain);
      if (left > 0) {
        const auto first = prompt.begin() + chain.prompt_done;
        tokens.insert(tokens.end(), first, first + count);
      } else {
        tokens.push_back(chain.next_token);
      }
      if (left > count) continue;
      logit_rows.push_back(row + count - 1);
      sampling.push_back(&chain);
      if (left > 0) continue;
      if (const std::optional<uint32_t> slot = queries_->Offer(); slot.has_value()) {
        const SequenceView& view = views.back();
        kept.push_back(
            {.row = row, .position = view.open_position + view.open_count, .slot = *slot});
      }
      if (!IsDue(chain)) continue;
      due.push_back(static_cast<uint32_t>(rows.size() - 1));
      due_runs.push_back(&runs_.sparsity[chain.index]);
    }
    const std::vector<SampleSpec> greedy(logit_rows.size());
    std::vector<int32_t> chosen(logit_rows.size());
    queries_->BeginStep(std::move(kept));
    Observer observer(device_, layers_, std::move(due), due_runs, queries_);
    KV_RETURN_IF_ERROR(model_->Generate({.tokens = tokens,
                                         .sequences = views,
                                         .rows = rows,
                                         .logit_rows = logit_rows,
                                         .observer = &observer},
                                        *backend_, greedy, absl::MakeSpan(chosen)));
    progress_.samples += due_runs.size();
    for (size_t i = 0; i < stepping.size(); ++i) {
      Chain& chain = *stepping[i];
      chain.cache->CommitAppend(rows[i].count);
      if (chain.prompt_done < prompts_[chain.index].tokens.size()) {
        chain.prompt_done += rows[i].count;
      }
    }
    return TakeTokens(sampling, chosen);
  }

  absl::Status TakeTokens(const std::vector<Chain*>& sampling, const std::vector<int32_t>& chosen) {
    const std::vector<int32_t>& ends = model_->config().eos_ids;
    for (size_t i = 0; i < sampling.size(); ++i) {
      Chain& chain = *sampling[i];
      if (chosen[i] == kNoToken) return absl::DataLossError("a logit of the model is not finite");
      const SampledPrompt& prompt = prompts_[chain.index];
      const bool reads = !prompt.continuation.empty();
      chain.next_token = reads ? prompt.continuation[chain.generated] : chosen[i];
      runs_.written[chain.index].push_back(chain.next_token);
      ++chain.generated;
      ++progress_.tokens_generated;
      const bool stop = !reads && std::count(ends.begin(), ends.end(), chain.next_token) > 0;
      chain.ended = stop || chain.generated >= prompt.max_new_tokens;
    }
    return absl::OkStatus();
  }

  absl::Status SealFullGroups() {
    std::vector<SequenceCache*> full;
    std::vector<SequenceView> views;
    std::vector<SealOrder> orders;
    for (Chain& chain : chains_) {
      if (chain.cache->open_count() < kGroupTokens) continue;
      KV_ASSIGN_OR_RETURN(
          const SealOrder order,
          chain.cache->PlanSeal(Thought::kReasoning, static_cast<uint32_t>(orders.size())));
      orders.push_back(order);
      full.push_back(chain.cache.get());
      views.push_back(chain.cache->view());
    }
    if (orders.empty()) return absl::OkStatus();
    KV_RETURN_IF_ERROR(backend_->Seal(views, orders));
    for (SequenceCache* cache : full) cache->CommitSeal(Thought::kReasoning, false);
    return absl::OkStatus();
  }

  absl::Status Retire() {
    for (Chain& chain : chains_) {
      if (!chain.ended) continue;
      KV_RETURN_IF_ERROR(chain.cache->Release());
      free_open_groups_.push_back(chain.cache->open_group());
      ++progress_.prompts_done;
    }
    chains_.erase(std::remove_if(chains_.begin(), chains_.end(),
                                 [](const Chain& chain) { return chain.ended; }),
                  chains_.end());
    return absl::OkStatus();
  }

  const Device& device_;
  Model* model_;
  Backend* backend_;
  PagePool* pool_;
  absl::Span<const SampledPrompt> prompts_;
  const SamplerOptions& options_;
  QuerySamples* queries_;
  std::vector<int> layers_;    // all of them
  std::vector<size_t> order_;  // of the prompts' starts
  SampledRuns runs_;
  std::vector<Chain> chains_;
  std::vector<uint32_t> free_open_groups_;
  size_t next_ = 0;
  SamplerProgress progress_;
};

}  // namespace

absl::StatusOr<SampledRuns> SampleRuns(const Device& device, PagePool* pool,
                                       absl::Span<const SampledPrompt> prompts,
                                       const SamplerOptions& options, QuerySamples* queries,
                                       const SamplerHandler& on_step) {
  return Sampler(device, pool, prompts, options, queries).Run(on_step);
}

uint64_t PoolBytesFor(const CacheShape& shape, absl::Span<const SampledPrompt> prompts,
                      uint32_t batch) {
  std::vector<uint64_t> pages;
  for (const SampledPrompt& prompt : prompts) {
    pages.push_back((prompt.tokens.size() + prompt.max_new_tokens) / kSlotsPerPage + 1);
  }
  std::sort(pages.rbegin(), pages.rend());
  pages.resize(std::min<size_t>(pages.size(), batch));
  uint64_t total = 0;
  for (const uint64_t count : pages) total += count;
  // Frames waste up to 4 % of themselves, and the last ones are partly empty.
  return MakePageLayout(shape, kBf16.of(Thought::kReasoning)).page_bytes * (total + total / 8) +
         16 * ChooseFrameBytes(shape);
}

}  // namespace palimpsest::cli
