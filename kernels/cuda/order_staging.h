// SPDX-License-Identifier: Apache-2.0
// The tables of a Seal or Anneal call: its orders, and right behind them the pages of their
// classes; those of uneven sequences by themselves.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/lane_tables.h"
#include "kernels/cuda/staged_block.h"
#include "kernels/cuda/step_tables.h"
#include "kernels/pool_layout.h"

namespace palimpsest::cuda {

class OrderStaging {
 public:
  // Orders are plain structs of this size at most.
  static constexpr uint64_t kOrderBytesMax = 64;

  // Room for an order to each open group, and for all pages.
  static absl::StatusOr<OrderStaging> Make(const PoolLayout& layout, cudaStream_t stream);

  uint64_t orders_max() const { return orders_max_; }
  // Begin and End are this one's, too.
  LaneTables& lanes() { return lanes_; }

  template <typename Order>
  struct Tables {
    Order* orders = nullptr;
    PageEntry* pages = nullptr;
  };
  // The host's copies, to be filled next; there is room for all pages of the pool.
  template <typename Order>
  absl::StatusOr<Tables<Order>> Begin(size_t sequence_count, uint64_t order_count) {
    static_assert(sizeof(Order) <= kOrderBytesMax && sizeof(Order) % sizeof(PageEntry) == 0);
    const absl::Status lanes = lanes_.Begin(sequence_count);
    if (!lanes.ok()) return lanes;
    auto base = block_.Begin();
    if (!base.ok()) return base.status();
    return At<Order>(*base, order_count);
  }
  // Orders the copy of what was filled and says where it will be.
  template <typename Order>
  absl::StatusOr<Tables<Order>> End(uint64_t order_count, uint64_t page_count,
                                    cudaStream_t stream) {
    const absl::Status copied =
        block_.Copy(order_count * sizeof(Order) + page_count * sizeof(PageEntry), stream);
    if (!copied.ok()) return copied;
    const absl::Status lanes = lanes_.End(stream);
    if (!lanes.ok()) return lanes;
    return At<Order>(block_.device(), order_count);
  }

 private:
  template <typename Order>
  static Tables<Order> At(uint8_t* base, uint64_t order_count) {
    return {reinterpret_cast<Order*>(base),
            reinterpret_cast<PageEntry*>(base + order_count * sizeof(Order))};
  }

  uint64_t orders_max_ = 0;
  StagedBlock block_;
  LaneTables lanes_;
};

}  // namespace palimpsest::cuda
