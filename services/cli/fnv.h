// SPDX-License-Identifier: Apache-2.0
// A running hash (FNV-1a, 64 bit) by which reports tell equal things from different ones. Stable:
// it is written into files.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace palimpsest::cli {

class Fnv {
 public:
  // The value's eight bytes, least significant first.
  void Add(uint64_t value) {
    for (int i = 0; i < 8; ++i) AddByte(value >> (8 * i) & 0xff);
  }
  // The text's bytes and their number, so that two texts are not one.
  void Add(absl::string_view text) {
    for (const unsigned char byte : text) AddByte(byte);
    Add(uint64_t{text.size()});
  }
  uint64_t value() const { return value_; }

 private:
  void AddByte(uint64_t byte) { value_ = (value_ ^ byte) * 0x100000001b3u; }

  uint64_t value_ = 0xcbf29ce484222325u;
};

}  // namespace palimpsest::cli
