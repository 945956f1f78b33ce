// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/cuda/row_buckets.h"

#include <algorithm>

#include "gtest/gtest.h"

namespace palimpsest::cuda {
namespace {

TEST(RowBuckets, EveryNumberOfRowsHasTheLeastBucketThatHoldsIt) {
  for (const int rows_max : {1, 7, 64, 500, 512, 513, 1500, 2048}) {
    const RowBuckets buckets(rows_max);
    EXPECT_TRUE(std::is_sorted(buckets.rows().begin(), buckets.rows().end()));
    EXPECT_EQ(buckets.rows().back(), rows_max);
    for (int rows = 1; rows <= rows_max; ++rows) {
      const size_t bucket = buckets.Find(rows);
      EXPECT_GE(buckets.rows()[bucket], rows);
      EXPECT_TRUE(bucket == 0 || buckets.rows()[bucket - 1] < rows);
    }
  }
}

TEST(RowBuckets, WhereTimeGoesWithTheRowsPaddingIsAtMostAQuarter) {
  const RowBuckets buckets(2048);
  for (int rows = 257; rows <= 2048; ++rows) {
    EXPECT_LE(buckets.rows()[buckets.Find(rows)], rows * 1.25) << rows;
  }
}

}  // namespace
}  // namespace palimpsest::cuda
