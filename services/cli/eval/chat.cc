// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/chat.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace palimpsest::cli {
namespace {

using Messages = std::vector<ChatMessage>;

constexpr absl::string_view kDeepSeekUser = "<｜User｜>";
constexpr absl::string_view kDeepSeekAssistant = "<｜Assistant｜>";

std::string ChatMl(const Messages& messages) {
  std::string text;
  for (const ChatMessage& message : messages) {
    absl::StrAppend(&text, "<|im_start|>", message.role, "\n", message.text, "<|im_end|>\n");
  }
  return absl::StrCat(text, "<|im_start|>assistant\n");
}

std::string DeepSeek(const Messages& messages) {
  std::string text = "<｜begin▁of▁sentence｜>";
  for (const ChatMessage& message : messages) {
    if (message.role == "user") absl::StrAppend(&text, kDeepSeekUser, message.text);
    if (message.role == "system") absl::StrAppend(&text, message.text);
    if (message.role != "assistant") continue;
    absl::StrAppend(&text, kDeepSeekAssistant, message.text, "<｜end▁of▁sentence｜>");
  }
  return absl::StrCat(text, kDeepSeekAssistant, "<think>\n");
}

std::string Llama3(const Messages& messages) {
  std::string text = "<|begin_of_text|>";
  for (const ChatMessage& message : messages) {
    absl::StrAppend(&text, "<|start_header_id|>", message.role, "<|end_header_id|>\n\n",
                    message.text, "<|eot_id|>");
  }
  return absl::StrCat(text, "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

}  // namespace

ChatStyle ChatStyleOf(const Tokenizer& tokenizer) {
  // DeepSeek's distillations keep the tokens of the models they were made from: look for its first.
  if (tokenizer.TokenId(kDeepSeekUser).has_value()) return ChatStyle::kDeepSeek;
  if (tokenizer.TokenId("<|im_start|>").has_value()) return ChatStyle::kChatMl;
  if (tokenizer.TokenId("<|start_header_id|>").has_value()) return ChatStyle::kLlama3;
  return ChatStyle::kPlain;
}

absl::string_view Name(ChatStyle style) {
  switch (style) {
    case ChatStyle::kAuto:
      return "auto";
    case ChatStyle::kPlain:
      return "plain";
    case ChatStyle::kChatMl:
      return "chatml";
    case ChatStyle::kDeepSeek:
      return "deepseek";
    case ChatStyle::kLlama3:
      return "llama3";
  }
  return "";
}

std::string ChatText(ChatStyle style, const Messages& messages) {
  switch (style) {
    case ChatStyle::kChatMl:
      return ChatMl(messages);
    case ChatStyle::kDeepSeek:
      return DeepSeek(messages);
    case ChatStyle::kLlama3:
      return Llama3(messages);
    case ChatStyle::kAuto:
    case ChatStyle::kPlain:
      break;
  }
  return absl::StrJoin(messages, "\n\n", [](std::string* out, const ChatMessage& message) {
    out->append(message.text);
  });
}

bool WritesBeginToken(ChatStyle style) {
  return style == ChatStyle::kDeepSeek || style == ChatStyle::kLlama3;
}

}  // namespace palimpsest::cli
