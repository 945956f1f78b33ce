// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/order_staging.h"

#include "common/base/status_macros.h"

namespace palimpsest::cuda {

absl::StatusOr<OrderStaging> OrderStaging::Make(uint64_t orders_max, uint64_t pages_max,
                                                cudaStream_t stream) {
  OrderStaging staging;
  staging.orders_max_ = orders_max;
  const uint64_t bytes = orders_max * kOrderBytesMax + pages_max * sizeof(PageEntry);
  KV_ASSIGN_OR_RETURN(staging.block_, StagedBlock::Make(bytes, stream, "the tables of orders"));
  return staging;
}

}  // namespace palimpsest::cuda
