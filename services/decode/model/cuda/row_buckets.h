// SPDX-License-Identifier: Apache-2.0
// The numbers of rows that launches are planned and captured for. A step runs with the least that
// holds its rows; the rest is padding. Up to some 200 rows it costs little, since the weights'
// bytes are what takes time; above, time goes with the rows, and a bucket is at most a quarter
// larger than the one before.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "common/base/check.h"

namespace palimpsest::cuda {

class RowBuckets {
 public:
  // Up to `rows_max`, which is always the last one.
  explicit RowBuckets(int rows_max) {
    constexpr int kRows[] = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 384, 448, 512};
    constexpr int kStep = 128;  // past the last of these
    for (const int rows : kRows) {
      if (rows < rows_max) rows_.push_back(rows);
    }
    for (int rows = kRows[std::size(kRows) - 1] + kStep; rows < rows_max; rows += kStep) {
      rows_.push_back(rows);
    }
    rows_.push_back(rows_max);
  }

  const std::vector<int>& rows() const { return rows_; }

  // Index of the least bucket that holds `rows`. REQUIRES: 1 <= rows <= rows_max.
  size_t Find(int rows) const {
    const auto found = std::lower_bound(rows_.begin(), rows_.end(), rows);
    KV_CHECK(rows >= 1 && found != rows_.end());
    return static_cast<size_t>(found - rows_.begin());
  }

 private:
  std::vector<int> rows_;  // ascending
};

}  // namespace palimpsest::cuda
