// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/sealer.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/page_entries.h"
#include "kernels/cuda/seal.h"

namespace palimpsest::cuda {
namespace {

using SealTables = OrderStaging::Tables<SealEntry>;

absl::StatusOr<SealTables> StageOrders(absl::Span<const SequenceView> sequences,
                                       absl::Span<const SealOrder> orders, cudaStream_t stream,
                                       OrderStaging* staging) {
  KV_ASSIGN_OR_RETURN(const SealTables tables,
                      staging->Begin<SealEntry>(sequences.size(), orders.size()));
  // Pages of a call do not overlap, so that there is room for all of them.
  PageEntry* next = tables.pages;
  for (size_t i = 0; i < orders.size(); ++i) {
    const SequenceView& view = sequences[orders[i].sequence];
    const PageFormat format = view.formats.of(orders[i].thought);
    const auto& pages = view.pages[Index(orders[i].thought)];
    uint32_t table = kNoTable;
    if (!pages.empty()) {  // of an uneven sequence those of one class only
      KV_ASSIGN_OR_RETURN(table, staging->lanes().Put(orders[i].sequence, view));
    }
    tables.orders[i] = {.first_page = static_cast<uint32_t>(next - tables.pages),
                        .page_count = static_cast<uint32_t>(pages.size()),
                        .open_group = view.open_group,
                        .open_count = view.open_count,
                        .open_position = view.open_position,
                        .sequence = orders[i].sequence,
                        .table = table,
                        .format_pair = static_cast<uint8_t>(FormatPair(format)),
                        .thought = orders[i].thought,
                        .slot_score = view.slot_score};
    next = PutPages(pages, format, next);
  }
  return staging->End<SealEntry>(orders.size(), next - tables.pages, stream);
}

}  // namespace

absl::StatusOr<Sealer> Sealer::Make(const DeviceContext& device) {
  Sealer sealer;
  const uint64_t places =
      uint64_t{device.layout->config().open_groups} * device.layout->shape().lanes() * kGroupTokens;
  KV_ASSIGN_OR_RETURN(sealer.places_, AllocateDevice(places * sizeof(uint64_t), device.stream,
                                                     "the places of sealed tokens"));
  KV_ASSIGN_OR_RETURN(sealer.refused_call_,
                      AllocateDevice(sizeof(uint32_t), device.stream, "the number of a call"));
  return sealer;
}

absl::Status Sealer::Seal(const DeviceContext& device, absl::Span<const SequenceView> sequences,
                          absl::Span<const SealOrder> orders, OrderStaging* staging) {
  if (orders.size() > staging->orders_max()) {
    return absl::InvalidArgumentError(absl::StrCat(orders.size(), " groups to seal; there are ",
                                                   staging->orders_max(), " open groups"));
  }
  if (orders.empty()) return absl::OkStatus();
  KV_ASSIGN_OR_RETURN(const SealTables tables,
                      StageOrders(sequences, orders, device.stream, staging));
  const SealParams params{.pool = device.pool,
                          .layouts = device.layouts,
                          .orders = tables.orders,
                          .entries = tables.pages,
                          .tables = staging->lanes().on_device(),
                          .order_count = static_cast<uint32_t>(orders.size()),
                          .places = reinterpret_cast<uint64_t*>(places_.get()),
                          .refused_call = reinterpret_cast<uint32_t*>(refused_call_.get()),
                          .call = ++calls_,
                          .faults = device.faults};
  return ToStatus(LaunchSeal(params, device.stream), "seal");
}

}  // namespace palimpsest::cuda
