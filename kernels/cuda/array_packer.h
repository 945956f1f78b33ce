// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace palimpsest::cuda {

// Lays arrays out one behind the other, each at a multiple of 256 bytes.
class ArrayPacker {
 public:
  // Where the array of `count` elements begins.
  template <typename T>
  uint64_t Add(uint64_t count) {
    constexpr uint64_t kAlignment = 256;
    static_assert(alignof(T) <= kAlignment);
    const uint64_t offset = bytes_;
    bytes_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return offset;
  }
  uint64_t bytes() const { return bytes_; }

 private:
  uint64_t bytes_ = 0;
};

}  // namespace palimpsest::cuda
