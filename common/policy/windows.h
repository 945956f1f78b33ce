// SPDX-License-Identifier: Apache-2.0
// Where a chain's windows begin and end. The first begins where the prompt ends; each ends with the
// first sealed group that makes it as long as a window, and the refresh is due there. One rule for
// the engine, which leads chains, and for whoever foresees what they will hold.
#pragma once

#include <cstdint>

#include "common/policy/sequence_state.h"

namespace palimpsest {

class Windows {
 public:
  struct Options {
    uint32_t prompt_tokens = 0;
    uint32_t window_tokens = 0;  // PolicySpec's
    bool one_segment = false;    // Policy's: windows begin no segments
  };
  Windows() = default;
  explicit Windows(const Options& options) : options_(options), start_(options.prompt_tokens) {}

  // What the next sealing is to say of its first generated token: SealedTokens::starts_window.
  bool starts() const { return starts_; }
  // Whether the present window ends once so many tokens are sealed.
  bool EndsAt(uint32_t sealed_tokens) const {
    return sealed_tokens >= start_ + options_.window_tokens;
  }
  // A group was sealed: its newest run, and all that is sealed now. Returns whether a window ended.
  bool Seal(const SealedTokens& newest, uint32_t sealed_tokens) {
    if (!newest.pinned) starts_ = false;
    if (!EndsAt(sealed_tokens)) return false;
    start_ = sealed_tokens;
    starts_ = !options_.one_segment;
    return true;
  }

 private:
  Options options_;
  uint32_t start_ = 0;
  bool starts_ = true;
};

}  // namespace palimpsest
