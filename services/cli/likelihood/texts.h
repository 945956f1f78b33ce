// SPDX-License-Identifier: Apache-2.0
// The texts a model reads, as tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "services/decode/model/tokenizer.h"

namespace palimpsest::cli {

struct LikelihoodText {
  std::string name;         // the file's, without folder and ending
  std::string fingerprint;  // of the tokens read: 16 hex digits
  std::vector<int32_t> tokens;
};

// Reads files, and every .txt file of folders, in order of their names; of each at most
// `tokens_max` tokens. InvalidArgument for one that is shorter than `tokens_min`, is not UTF-8 or
// has the name of another; NotFound for what is not there.
absl::StatusOr<std::vector<LikelihoodText>> ReadTexts(absl::Span<const std::string> paths,
                                                      const Tokenizer& tokenizer,
                                                      uint32_t tokens_min, uint32_t tokens_max);

// 16 hex digits of a file's bytes.
absl::StatusOr<std::string> FingerprintFile(const std::string& path);

}  // namespace palimpsest::cli
