// SPDX-License-Identifier: Apache-2.0
// Cuts text into words before the vocabulary sees it, as tokenizer.json's `pre_tokenizer` says.
// Implemented: Sequence, Split (Regex or String), ByteLevel, Digits, Whitespace, WhitespaceSplit.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace palimpsest {

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;

  // Replaces each piece of UTF-8 text by its words; empty words vanish. ResourceExhausted when a
  // regular expression takes too long over a hostile text.
  virtual absl::Status Split(std::vector<std::string>* pieces) const = 0;
};

// Reads the `pre_tokenizer` value; null makes one that leaves pieces whole. Unimplemented names
// the component that is not implemented, InvalidArgument the key that is wrong.
absl::StatusOr<std::unique_ptr<PreTokenizer>> NewPreTokenizer(const nlohmann::json* settings);

}  // namespace palimpsest
