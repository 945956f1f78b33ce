// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/annealer.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/page_entries.h"

namespace palimpsest::cuda {

absl::StatusOr<Annealer> Annealer::Make(const DeviceContext& device) {
  Annealer annealer;
  annealer.scratch_bytes_ = AnnealScratchBytes(device.pool);
  KV_ASSIGN_OR_RETURN(annealer.scratch_, AllocateDevice(annealer.scratch_bytes_, device.stream,
                                                        "the scratch of anneal"));
  annealer.tasks_.reserve(device.layout->config().open_groups);
  return annealer;
}

absl::Status Annealer::Anneal(const DeviceContext& device, absl::Span<const SequenceView> sequences,
                              absl::Span<const AnnealOrder> orders, OrderStaging* staging) {
  if (orders.empty()) return absl::OkStatus();
  KV_ASSIGN_OR_RETURN(const PageEntry* const pages,
                      Stage(sequences, orders, device.stream, staging));
  const uint32_t tokens_max = KMeansTokensMax(device.pool, scratch_bytes_);
  for (const AnnealTask& task : tasks_) {
    if (task.selector == Selector::kKMeansMedoids && task.keep > 0 &&
        TokensBound(task) > tokens_max) {
      return absl::InvalidArgumentError(
          absl::StrCat("a segment of up to ", TokensBound(task),
                       " tokens to cluster; K-means on this device takes ", tokens_max));
    }
  }
  const AnnealParams params{.pool = device.pool,
                            .layouts = device.layouts,
                            .page_entries = pages,
                            .scratch = scratch_.get(),
                            .scratch_bytes = scratch_bytes_};
  return ToStatus(
      LaunchAnneal(params, tasks_.data(), static_cast<uint32_t>(tasks_.size()), device.stream),
      "anneal");
}

absl::StatusOr<const PageEntry*> Annealer::Stage(absl::Span<const SequenceView> sequences,
                                                 absl::Span<const AnnealOrder> orders,
                                                 cudaStream_t stream, OrderStaging* staging) {
  // The launches carry the tasks themselves.
  KV_ASSIGN_OR_RETURN(const auto tables, staging->Begin<AnnealTask>(0));
  ClassPages pages(sequences, tables.pages);
  tasks_.clear();
  for (const AnnealOrder& order : orders) {
    const auto& of_class = sequences[order.sequence].pages[Index(order.thought)];
    tasks_.push_back({.first_page = pages.Put(order.sequence, order.thought),
                      .page_count = static_cast<uint32_t>(of_class.size()),
                      .first_position = order.first_position,
                      .end_position = order.end_position,
                      .keep = order.keep,
                      .selector = order.selection.selector});
  }
  KV_ASSIGN_OR_RETURN(const auto copied, staging->End<AnnealTask>(0, pages.count(), stream));
  return copied.pages;
}

}  // namespace palimpsest::cuda
