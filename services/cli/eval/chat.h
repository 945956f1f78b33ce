// SPDX-License-Identifier: Apache-2.0
// A conversation as the text that a model of some family was trained to continue. The three
// formats that reasoning models use, written out: a folder's own template is a program (Jinja) and
// is not run.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "services/decode/model/tokenizer.h"

namespace palimpsest::cli {

enum class ChatStyle : uint8_t {
  kAuto,      // by the special tokens that the tokenizer has
  kPlain,     // the messages' texts, with a blank line between
  kChatMl,    // Qwen
  kDeepSeek,  // DeepSeek-R1 and its distillations; opens <think>
  kLlama3,
};

struct ChatMessage {
  std::string role;  // system, user, assistant
  std::string text;
};

ChatStyle ChatStyleOf(const Tokenizer& tokenizer);
absl::string_view Name(ChatStyle style);

// REQUIRES: not kAuto. Ends where the assistant is to speak.
std::string ChatText(ChatStyle style, const std::vector<ChatMessage>& messages);
// Whether the text holds its begin token already, so that the tokenizer is to add none.
bool WritesBeginToken(ChatStyle style);

}  // namespace palimpsest::cli
