// SPDX-License-Identifier: Apache-2.0
// The tables of a Seal or Anneal call: its orders, and right behind them the pages of their
// classes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/staged_block.h"
#include "kernels/cuda/step_tables.h"

namespace palimpsest::cuda {

class OrderStaging {
 public:
  // Orders are plain structs of this size at most.
  static constexpr uint64_t kOrderBytesMax = 64;

  static absl::StatusOr<OrderStaging> Make(uint64_t orders_max, uint64_t pages_max,
                                           cudaStream_t stream);

  uint64_t orders_max() const { return orders_max_; }

  template <typename Order>
  struct Tables {
    Order* orders = nullptr;
    PageEntry* pages = nullptr;
  };
  // The host's copies, to be filled next; there is room for pages_max pages.
  template <typename Order>
  absl::StatusOr<Tables<Order>> Begin(uint64_t order_count) {
    static_assert(sizeof(Order) <= kOrderBytesMax && sizeof(Order) % sizeof(PageEntry) == 0);
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
};

}  // namespace palimpsest::cuda
