// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back, from a Hugging Face tokenizer.json.
//
// Implemented: BPE (byte-level: GPT-2, Llama 3, Qwen, SmolLM2) and WordLevel; what else a file asks
// for is refused by name when it is loaded, so that a tokenizer which loads gives the ids that
// Hugging Face's own gives. Immutable once made, so any thread may use it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace palimpsest {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids of a text. Special tokens written out in the text are recognised. `add_special` also adds
  // what the file's template puts around a text (a begin token, as a rule). InvalidArgument when
  // the text is not UTF-8.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                                      bool add_special) const = 0;

  // Text of ids. Ids that are no token vanish; broken UTF-8 becomes U+FFFD.
  virtual std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const = 0;

  // What the id adds to a text whose tokens so far are `is_first ? none : some`: raw bytes, which
  // may be part of a character. Empty for an id that is no token.
  virtual std::string TokenBytes(int32_t id, bool is_first) const = 0;

  // The id of a token as the file spells it ("<|im_end|>", "\u0120the").
  virtual std::optional<int32_t> TokenId(absl::string_view token) const = 0;

  virtual bool IsSpecial(int32_t id) const = 0;

  // One more than the largest id.
  virtual int vocab_size() const = 0;
};

// Reads tokenizer.json of a folder. NotFound, InvalidArgument naming the key, or Unimplemented
// naming the component.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& folder);
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizer(absl::string_view json_text);

// Decodes a chain as it is written: gives out text as soon as its characters are whole.
class StreamDecoder {
 public:
  // The tokenizer must outlive this.
  explicit StreamDecoder(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}

  // The text that became certain with this token; may be empty. Special tokens add nothing.
  std::string Push(int32_t id);

  // What is left at the end: U+FFFD for an unfinished character, or nothing.
  std::string Flush();

 private:
  const Tokenizer* tokenizer_;
  bool is_first_ = true;
  std::string pending_;  // the bytes of an unfinished character
};

}  // namespace palimpsest
