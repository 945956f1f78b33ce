// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/annealer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/page_entries.h"

namespace palimpsest::cuda {

absl::StatusOr<Annealer> Annealer::Make(const DeviceContext& device) {
  const BackendConfig& config = device.layout->config();
  Annealer annealer;
  const bool scores = config.codebook != nullptr || config.query_window > 0;
  annealer.scratch_bytes_ = AnnealScratchBytes(device.pool, scores, config.open_groups);
  KV_ASSIGN_OR_RETURN(annealer.scratch_, AllocateDevice(annealer.scratch_bytes_, device.stream,
                                                        "the scratch of anneal"));
  if (config.codebook != nullptr) {
    KV_ASSIGN_OR_RETURN(annealer.codebook_, Codebook::Make(device, *config.codebook));
  }
  if (config.query_window > 0) {
    const uint64_t each = QueryWindowBytes(config.shape, config.query_heads, config.query_window);
    KV_ASSIGN_OR_RETURN(annealer.query_bytes_, AllocateDevice(each * config.open_groups,
                                                              device.stream, "the newest queries"));
    annealer.queries_ = {.queries = annealer.query_bytes_.get(), .window = config.query_window};
  }
  KV_RETURN_IF_ERROR(annealer.MakeLanesByRank(device));
  annealer.tasks_.reserve(config.open_groups);
  return annealer;
}

absl::Status Annealer::MakeLanesByRank(const DeviceContext& device) {
  const std::vector<uint32_t>& ranks = device.layout->lane_ranks();
  if (ranks.empty()) return absl::OkStatus();
  std::vector<uint32_t> by_rank(ranks.size());
  for (uint32_t lane = 0; lane < ranks.size(); ++lane) by_rank[ranks[lane]] = lane;
  const uint64_t bytes = by_rank.size() * sizeof(uint32_t);
  KV_ASSIGN_OR_RETURN(lanes_by_rank_, AllocateDevice(bytes, device.stream, "lanes by rank"));
  // From pageable memory: it has been read when this returns.
  return ToStatus(cudaMemcpyAsync(lanes_by_rank_.get(), by_rank.data(), bytes,
                                  cudaMemcpyHostToDevice, device.stream),
                  "copy lanes by rank");
}

absl::Status Annealer::ZeroQueries(const DeviceContext& device, uint32_t open_group) {
  if (queries_.queries == nullptr) return absl::OkStatus();
  const BackendConfig& config = device.layout->config();
  const uint64_t each = QueryWindowBytes(config.shape, config.query_heads, config.query_window);
  return ToStatus(cudaMemsetAsync(queries_.queries + open_group * each, 0, each, device.stream),
                  "zero the newest queries");
}

AnnealParams Annealer::Params(const DeviceContext& device, const PageEntry* pages,
                              const LaneTables& lanes) const {
  return {.pool = device.pool,
          .layouts = device.layouts,
          .page_entries = pages,
          .uneven = {.tables = lanes.on_device(),
                     .host_tables = lanes.on_host(),
                     .lanes = reinterpret_cast<const uint32_t*>(lanes_by_rank_.get())},
          .scratch = scratch_.get(),
          .scratch_bytes = scratch_bytes_,
          .codebook = codebook_.on_device(),
          .queries = queries_,
          .rotate_keys = device.layout->config().rotate_keys};
}

absl::Status Annealer::Anneal(const DeviceContext& device, absl::Span<const SequenceView> sequences,
                              absl::Span<const AnnealOrder> orders, OrderStaging* staging) {
  if (orders.empty()) return absl::OkStatus();
  KV_ASSIGN_OR_RETURN(const PageEntry* const pages,
                      Stage(sequences, orders, device.stream, staging));
  const AnnealParams params = Params(device, pages, staging->lanes());
  for (const AnnealTask& task : tasks_) {
    const AnnealDemand demand = DemandOf(params, task);
    if (demand.count <= demand.max) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "a segment of up to ", demand.count, " ", demand.what, "; this device takes ", demand.max));
  }
  return ToStatus(
      LaunchAnneal(params, tasks_.data(), static_cast<uint32_t>(tasks_.size()), device.stream),
      "anneal");
}

absl::StatusOr<AnnealTask> Annealer::TaskOf(absl::Span<const SequenceView> sequences,
                                            const AnnealOrder& order, LaneTables* lanes) const {
  const SequenceView& view = sequences[order.sequence];
  const auto largest = [](uint32_t of_all, absl::Span<const uint32_t> of_lanes) {
    return of_lanes.empty() ? of_all : *std::max_element(of_lanes.begin(), of_lanes.end());
  };
  const auto pages = static_cast<uint32_t>(view.pages[Index(order.thought)].size());
  const bool uneven = !view.uneven.empty() && pages > 0;  // pages of other classes there are none
  // Where this leaves nothing to score, neither does any smaller number.
  const uint32_t keep = largest(order.keep, order.lane_keeps);
  AnnealTask task{.block_count = uneven ? largest(pages, view.uneven.block_counts) : pages,
                  .first_position = order.first_position,
                  .end_position = order.end_position,
                  .keep = keep,
                  .recent = RecentOf(order.selection, keep),
                  .next_position = view.open_position + view.open_count,
                  .open_group = view.open_group,
                  .selector = order.selection.selector,
                  .residue = order.selection.residue};
  if (!uneven) return task;
  KV_ASSIGN_OR_RETURN(task.table, lanes->Put(order.sequence, view));
  KV_ASSIGN_OR_RETURN(task.keeps, lanes->PutKeeps(order));
  return task;
}

absl::StatusOr<const PageEntry*> Annealer::Stage(absl::Span<const SequenceView> sequences,
                                                 absl::Span<const AnnealOrder> orders,
                                                 cudaStream_t stream, OrderStaging* staging) {
  // The launches carry the tasks themselves.
  KV_ASSIGN_OR_RETURN(const auto tables, staging->Begin<PageEntry>(sequences.size(), 0));
  ClassPages pages(sequences, tables.pages);
  tasks_.clear();
  for (const AnnealOrder& order : orders) {
    KV_ASSIGN_OR_RETURN(AnnealTask task, TaskOf(sequences, order, &staging->lanes()));
    task.first_page = pages.Put(order.sequence, order.thought);
    tasks_.push_back(task);
  }
  KV_ASSIGN_OR_RETURN(const auto copied, staging->End<PageEntry>(0, pages.count(), stream));
  return copied.pages;
}

}  // namespace palimpsest::cuda
