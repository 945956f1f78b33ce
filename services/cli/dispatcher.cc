// SPDX-License-Identifier: Apache-2.0
#include "services/cli/dispatcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"

namespace palimpsest::cli {
namespace {

// Where many are in flight, a wave is at least this share of them: a call for each chain that ends
// would keep a handle at both sides for each.
constexpr size_t kWaveShare = 8;

}  // namespace

Dispatcher::Dispatcher(const Clock* clock, WorkerClient* worker, Options options)
    : clock_(clock), worker_(worker), options_(std::move(options)), retry_at_(clock->Now()) {}

absl::StatusOr<std::vector<Dispatcher::Submitted>> Dispatcher::Submit() {
  std::vector<Submitted> submitted;
  const size_t left = options_.count - next_;
  const size_t free = options_.in_flight - std::min(options_.in_flight, next_ - finished_);
  const size_t wave = std::min(left, std::max<size_t>(1, options_.in_flight / kWaveShare));
  if (left == 0 || free < wave || clock_->Now() < retry_at_) return submitted;
  const size_t count = std::min({free, left, size_t{limits::kRequestsPerBatchMax}});
  std::vector<ChainRequest> requests;
  for (size_t i = next_; i < next_ + count; ++i) {
    KV_ASSIGN_OR_RETURN(ChainRequest request, options_.request(i));
    requests.push_back(std::move(request));
  }
  KV_ASSIGN_OR_RETURN(
      const std::vector<ChainAdmission> admissions,
      worker_->Generate(requests, [inbox = inbox_, clock = clock_](ChainEvent event) {
        inbox->push_back({clock->Now(), std::move(event)});
      }));
  for (const ChainAdmission& admission : admissions) {
    // One refusal for now ends the wave: the ones behind it keep their order.
    if (!admission.admitted) {
      KV_RETURN_IF_ERROR(Refused(admission.refusal));
      break;
    }
    running_[admission.request] = {next_, clock_->Now()};
    submitted.push_back({next_++, admission.request});
  }
  return submitted;
}

absl::Status Dispatcher::Refused(const Refusal& refusal) {
  if (refusal.retry_after_ms > 0) {
    retry_at_ = clock_->Now() + std::chrono::milliseconds(refusal.retry_after_ms);
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("worker refused ", options_.describe(next_), ": ", Escaped(ToString(refusal))));
}

std::vector<Dispatcher::Event> Dispatcher::Take() {
  std::vector<Event> events;
  // Events may come before the admission that names them, so they wait for this call.
  for (Arrival& arrival : std::exchange(*inbox_, {})) {
    const auto found = running_.find(arrival.event.request);
    if (found == running_.end()) continue;
    events.push_back({.index = found->second.index,
                      .arrived = arrival.arrived,
                      .submitted = found->second.submitted,
                      .event = std::move(arrival.event)});
    if (!events.back().event.finished) continue;
    running_.erase(found);
    ++finished_;
  }
  return events;
}

}  // namespace palimpsest::cli
