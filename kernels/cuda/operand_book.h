// SPDX-License-Identifier: Apache-2.0
// A *book*: rows of head_dim bf16 channels, keys or queries, laid out as tensor cores take them.
//
//   book = [rows / 8][head_dim / 8] matrices of 8 rows x 8 channels, 128 bytes each, row after row
//
// ldmatrix and wgmma read such matrices from shared memory without conflicts, a warp reads one from
// device memory as one line, and any 8 rows are contiguous: a copy engine moves them as they are.
#pragma once

#include <cstdint>

namespace palimpsest::cuda {

inline constexpr uint32_t kPieceChannels = 8;  // of a row that lie together
inline constexpr uint32_t kMatrixBytes = 128;
inline constexpr uint32_t kTileRows = 64;  // of a book, that are multiplied at a time

constexpr uint64_t BookBytes(uint64_t rows, uint32_t dim) { return rows * dim * 2; }

// Where channel `channel` (a multiple of 8) of a row begins, in bytes.
constexpr uint64_t PieceOffset(uint64_t row, uint32_t channel, uint32_t dim) {
  return row / 8 * (16 * dim) + channel / 8 * kMatrixBytes + row % 8 * 16;
}

}  // namespace palimpsest::cuda
