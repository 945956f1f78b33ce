// SPDX-License-Identifier: Apache-2.0
#include "bench/fleet/fleet.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/layout.h"

namespace palimpsest::bench {
namespace {

constexpr uint32_t kPromptTokens = 16;
constexpr double kOpenTokensMean = 8.5;  // with the step's own, from 1 to 16

std::unique_ptr<PretendBackend> Wrap(std::unique_ptr<Backend> backend, uint32_t batch_max,
                                     PretendBackend** pretend) {
  auto wrapped = std::make_unique<PretendBackend>(std::move(backend), kPaperThoughts, batch_max);
  *pretend = wrapped.get();
  return wrapped;
}

absl::Status CheckRoom(const FleetOptions& options) {
  if (options.tokens > options.steps) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--tokens is ", options.tokens, ": a chain takes ", options.steps,
                   " steps, untimed ones among them, and must have generated tokens before; "
                   "allowed is ",
                   options.steps + 1, " and more, or fewer --steps"));
}

}  // namespace

Fleet::Fleet(Model* model, std::unique_ptr<Backend> backend, PagePool pool, uint32_t batch_max,
             PageWriter writer)
    : shape_(model->config().cache_shape()),
      batch_max_(batch_max),
      backend_(NewTimedBackend(Wrap(std::move(backend), batch_max, &pretend_), clock_.get(),
                               /*asynchronous=*/true)),
      model_(model, pretend_),
      engine_(std::make_unique<Engine>(
          EngineOptions{.batch_max = batch_max, .waiting_max = 2 * batch_max}, &model_,
          backend_.get(), std::move(pool), /*control=*/nullptr, clock_.get(),
          /*observer=*/nullptr)),
      writer_(std::move(writer)) {}

// Oldest first. Evenly spread, but moved by up to two windows: a fleet whose chains all reach their
// group and window boundaries in the same step is no fleet.
std::vector<uint32_t> Fleet::Ages(const FleetOptions& options) const {
  std::vector<uint32_t> ages(options.batch);
  std::mt19937 random(1);
  const uint32_t jitter = 2 * options.policy.window_tokens;
  for (uint32_t i = 0; i < options.batch; ++i) {
    const double middle =
        options.age.has_value() ? *options.age : (i + 0.5) / options.batch * options.tokens;
    const double moved = middle - jitter / 2.0 + random() % jitter;
    ages[i] = static_cast<uint32_t>(
        std::clamp(moved, 1.0, static_cast<double>(options.tokens - options.steps)));
  }
  std::sort(ages.rbegin(), ages.rend());
  return ages;
}

absl::Status Fleet::Submit(const FleetOptions& options, uint32_t age) {
  GenerateRequest request{.tenant = "bench",
                          .prompt = std::vector<int32_t>(kPromptTokens, 1),
                          .max_new_tokens = age + options.steps + kPromptTokens,
                          .stop_tokens = {},
                          .sampling = {.temperature = 1.0f, .seed = requests_.size()},
                          .policy = options.policy};
  std::vector<GenerateRequest> requests;
  requests.push_back(std::move(request));
  const std::vector<Admission> admissions =
      engine_->Submit(std::move(requests), [this](const GenerateEvent& event) {
        if (event.stats.has_value()) pressure_reliefs_ += event.stats->pressure_reliefs;
      });
  requests_.push_back(admissions[0].request);
  return admissions[0].status;
}

size_t Fleet::running() const { return engine_->outstanding() - engine_->Snapshot().waiting; }

absl::StatusOr<uint32_t> Fleet::MostAdmitted(FleetOptions options) {
  uint32_t fits = 0, too_many = batch_max_ + 1;
  while (too_many - fits > 1) {
    options.batch = (fits + too_many) / 2;
    for (const uint32_t age : Ages(options)) KV_RETURN_IF_ERROR(Submit(options, age));
    KV_RETURN_IF_ERROR(Step());
    (running() == options.batch ? fits : too_many) = options.batch;
    KV_RETURN_IF_ERROR(Stop());
  }
  return fits;
}

absl::StatusOr<uint32_t> Fleet::LargestBatch(const FleetOptions& options) {
  constexpr uint32_t kSample = 128;
  constexpr double kShare = 0.97;  // the rest for what chains hold at times above their mean
  KV_RETURN_IF_ERROR(CheckRoom(options));
  pretend_->set_pretending(true);
  KV_ASSIGN_OR_RETURN(uint32_t fits, MostAdmitted(options));
  if (options.policy.name != "full" && fits > kSample) {  // "full" is promised all it will need
    FleetOptions sample = options;
    sample.batch = kSample;
    KV_RETURN_IF_ERROR(Pretend(sample));
    const PoolUsage pool = engine_->Snapshot().pool;
    const double by_bytes = kShare * kSample * pool.capacity_bytes / pool.used_bytes;
    fits = static_cast<uint32_t>(std::min<double>(fits, by_bytes));
    KV_RETURN_IF_ERROR(Stop());
  }
  pretend_->set_pretending(false);
  return fits;
}

// Takes chains through their past, up to now. Those that find no room in time are missing.
absl::Status Fleet::Pretend(const FleetOptions& options) {
  const std::vector<uint32_t> ages = Ages(options);
  size_t next = 0;
  for (uint32_t left = ages.front() + 1; left-- > 0;) {
    for (; next < ages.size() && ages[next] >= left; ++next) {
      KV_RETURN_IF_ERROR(Submit(options, ages[next]));
    }
    KV_RETURN_IF_ERROR(Step());
  }
  return absl::OkStatus();
}

absl::Status Fleet::Start(const FleetOptions& options) {
  KV_RETURN_IF_ERROR(CheckRoom(options));
  pretend_->set_pretending(true);
  KV_RETURN_IF_ERROR(Pretend(options));
  if (running() != options.batch) {
    return absl::ResourceExhaustedError(
        absl::StrCat("of ", options.batch, " chains the pool held ", running()));
  }
  live_bytes_ = 0;
  for (uint32_t s = 0; s < batch_max_; ++s) live_bytes_ += LiveBytes(pretend_->record(s));
  live_bytes_ += static_cast<uint64_t>(options.batch * kOpenTokensMean * FullTokenBytes(shape_));
  KV_RETURN_IF_ERROR(writer_(*pretend_));
  pretend_->set_pretending(false);
  return absl::OkStatus();
}

uint64_t Fleet::LiveBytes(const SlotRecord& record) const {
  uint64_t bytes = 0;
  for (const Thought thought : kThoughts) {
    const PageLayout layout = MakePageLayout(shape_, record.formats.of(thought));
    const std::vector<uint32_t>& slots = record.positions[Index(thought)];
    const auto dead = std::count(slots.begin(), slots.end(), kDeadSlot);
    const uint64_t slot_bytes = shape_.lanes() * layout.lane_bytes / kSlotsPerPage;
    bytes += (slots.size() - static_cast<size_t>(dead)) * slot_bytes;
  }
  return bytes;
}

absl::Status Fleet::Step() { return engine_->Step().status(); }

FleetState Fleet::State() const {
  const EngineSnapshot snapshot = engine_->Snapshot();
  FleetState state{.footprint_bytes = snapshot.footprint_bytes,
                   .full_bytes = snapshot.full_bytes,
                   .pool_used_bytes = snapshot.pool.used_bytes,
                   .used_byte_steps = snapshot.used_byte_steps,
                   .full_byte_steps = snapshot.full_byte_steps,
                   .live_bytes = live_bytes_};
  for (const ChainSnapshot& chain : snapshot.chains) {
    state.live_tokens_mean += static_cast<double>(chain.live_tokens) / snapshot.chains.size();
    state.tokens_mean += static_cast<double>(chain.tokens) / snapshot.chains.size();
  }
  return state;
}

absl::Status Fleet::Stop() {
  for (const RequestId request : requests_) engine_->Cancel(request);
  requests_.clear();
  return Step();  // takes the cancellations
}

}  // namespace palimpsest::bench
