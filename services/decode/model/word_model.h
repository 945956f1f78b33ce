// SPDX-License-Identifier: Apache-2.0
// Turns one word into token ids, as tokenizer.json's `model` says: BPE or WordLevel.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace palimpsest {

// A vocabulary both ways. Ids are dense enough to index a vector.
class Vocabulary {
 public:
  // Reads {"token": id, ...}. InvalidArgument for ids out of range or given twice.
  static absl::StatusOr<Vocabulary> Read(const nlohmann::json* vocab);

  // Adds or re-names a token: added tokens have the last word on their ids.
  void Set(absl::string_view token, int32_t id);

  std::optional<int32_t> Id(absl::string_view token) const;
  // The token's text, or null when the id has none.
  const std::string* Token(int32_t id) const;
  // One more than the largest id.
  int size() const { return static_cast<int>(tokens_.size()); }

 private:
  std::unordered_map<std::string, int32_t> ids_;
  std::vector<std::optional<std::string>> tokens_;  // by id
};

inline constexpr int kTokenIdsMax = 4 << 20;

class WordModel {
 public:
  virtual ~WordModel() = default;
  // Appends the ids of one word. Time is O(n log n) in its length.
  virtual void Encode(const std::string& word, std::vector<int32_t>* ids) const = 0;
};

// Reads the `model` value. `vocabulary` is its vocabulary, already read, and must outlive the
// result. Unimplemented names what is not implemented, InvalidArgument the key that is wrong.
absl::StatusOr<std::unique_ptr<WordModel>> NewWordModel(const nlohmann::json& settings,
                                                        const Vocabulary* vocabulary);

}  // namespace palimpsest
