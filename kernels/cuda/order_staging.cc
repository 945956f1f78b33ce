// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/order_staging.h"

#include "common/base/status_macros.h"

namespace palimpsest::cuda {

absl::StatusOr<OrderStaging> OrderStaging::Make(const PoolLayout& layout, cudaStream_t stream) {
  OrderStaging staging;
  staging.orders_max_ = layout.config().open_groups;
  const uint64_t bytes =
      staging.orders_max_ * kOrderBytesMax + layout.pages_max() * sizeof(PageEntry);
  KV_ASSIGN_OR_RETURN(staging.block_, StagedBlock::Make(bytes, stream, "the tables of orders"));
  KV_ASSIGN_OR_RETURN(staging.lanes_, LaneTables::Make(layout, stream));
  return staging;
}

}  // namespace palimpsest::cuda
