// SPDX-License-Identifier: Apache-2.0
// Which of the 1024 partitions a sequence is in. The hash is part of the protocol
// (proto/kvstore.capnp): it never changes, and it is not absl::Hash, which differs between runs.
#pragma once

#include <cstdint>
#include <string_view>

namespace palimpsest {

inline constexpr uint16_t kPartitionCount = 1024;

constexpr uint16_t PartitionOf(std::string_view tenant, uint64_t sequence) {
  constexpr uint64_t kOffsetBasis = 0xcbf29ce484222325u;
  constexpr uint64_t kPrime = 0x100000001b3u;
  uint64_t hash = kOffsetBasis;
  for (const char byte : tenant) hash = (hash ^ static_cast<uint8_t>(byte)) * kPrime;
  hash *= kPrime;  // the zero byte between the two
  for (int i = 0; i < 8; ++i) hash = (hash ^ ((sequence >> (8 * i)) & 0xff)) * kPrime;
  return static_cast<uint16_t>((hash ^ (hash >> 32)) % kPartitionCount);
}

}  // namespace palimpsest
