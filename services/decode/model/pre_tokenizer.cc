// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/pre_tokenizer.h"

#include <unicode/regex.h>
#include <unicode/uchar.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "services/decode/model/json_fields.h"
#include "services/decode/model/utf8.h"

namespace palimpsest {
namespace {

using nlohmann::json;

// What ByteLevel splits by when it is told to (GPT-2), and what Whitespace keeps.
constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr char kWordPattern[] = R"(\w+|[^\w\s]+)";

constexpr int kMatchTimeMax = 5000;  // ICU's unit, about a millisecond each

// A stretch of a piece that matched the pattern, or one between matches.
struct Stretch {
  icu::UnicodeString text;
  bool matches;
};

enum class Behavior { kIsolated, kRemoved, kContiguous };

absl::StatusOr<std::vector<Stretch>> FindStretches(const icu::RegexPattern& pattern,
                                                   const icu::UnicodeString& text) {
  UErrorCode error = U_ZERO_ERROR;
  const std::unique_ptr<icu::RegexMatcher> matcher(pattern.matcher(text, error));
  if (U_FAILURE(error)) return absl::InternalError(absl::StrCat("ICU: ", u_errorName(error)));
  matcher->setTimeLimit(kMatchTimeMax, error);
  std::vector<Stretch> out;
  int32_t done = 0;
  while (matcher->find(error)) {
    const int32_t start = matcher->start(error);
    const int32_t end = matcher->end(error);
    if (start > done) out.push_back({text.tempSubStringBetween(done, start), false});
    if (end > start) out.push_back({text.tempSubStringBetween(start, end), true});
    done = end;
  }
  if (U_FAILURE(error)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("text is too hard for the tokenizer's pattern: ", u_errorName(error)));
  }
  if (done < text.length()) out.push_back({text.tempSubStringBetween(done), false});
  return out;
}

class SplitByPattern final : public PreTokenizer {
 public:
  SplitByPattern(std::unique_ptr<icu::RegexPattern> pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  absl::Status Split(std::vector<std::string>* pieces) const override {
    std::vector<std::string> words;
    for (const std::string& piece : *pieces) {
      const icu::UnicodeString text = icu::UnicodeString::fromUTF8(piece);
      KV_ASSIGN_OR_RETURN(const std::vector<Stretch> stretches, FindStretches(*pattern_, text));
      bool last = false;
      for (size_t i = 0; i < stretches.size(); ++i) {
        const bool matches = stretches[i].matches != invert_;
        if (matches && behavior_ == Behavior::kRemoved) continue;
        if (behavior_ != Behavior::kContiguous || i == 0 || matches != last) words.emplace_back();
        stretches[i].text.toUTF8String(words.back());
        last = matches;
      }
    }
    *pieces = std::move(words);
    return absl::OkStatus();
  }

 private:
  const std::unique_ptr<icu::RegexPattern> pattern_;
  const Behavior behavior_;
  const bool invert_;
};

absl::StatusOr<std::unique_ptr<PreTokenizer>> NewSplit(const std::string& pattern, bool literal,
                                                       Behavior behavior, bool invert) {
  UErrorCode error = U_ZERO_ERROR;
  std::unique_ptr<icu::RegexPattern> compiled(icu::RegexPattern::compile(
      icu::UnicodeString::fromUTF8(pattern), literal ? UREGEX_LITERAL : 0, error));
  if (U_FAILURE(error)) {
    return absl::InvalidArgumentError(absl::StrCat("pre_tokenizer.pattern: ICU cannot compile '",
                                                   pattern, "': ", u_errorName(error)));
  }
  return std::unique_ptr<PreTokenizer>(new SplitByPattern(std::move(compiled), behavior, invert));
}

// Cuts by a class of characters: each such character stands alone, or vanishes, or runs together
// with its like.
class SplitByClass final : public PreTokenizer {
 public:
  using IsMember = bool (*)(char32_t);
  SplitByClass(IsMember is_member, Behavior behavior)
      : is_member_(is_member), behavior_(behavior) {}

  absl::Status Split(std::vector<std::string>* pieces) const override {
    std::vector<std::string> words;
    for (const std::string& piece : *pieces) {
      bool last = false;
      for (size_t at = 0; at < piece.size();) {
        const size_t start = at;
        const bool member = is_member_(NextCodePoint(piece, &at));
        const bool alone = member && behavior_ == Behavior::kIsolated;
        if (start == 0 || alone || member != last) words.emplace_back();
        if (!member || behavior_ != Behavior::kRemoved) {
          words.back().append(piece, start, at - start);
        }
        last = member;
      }
    }
    std::erase(words, "");
    *pieces = std::move(words);
    return absl::OkStatus();
  }

 private:
  const IsMember is_member_;
  const Behavior behavior_;
};

bool IsNumeric(char32_t c) {  // Rust's char::is_numeric: Nd, Nl, No
  return (U_GET_GC_MASK(static_cast<UChar32>(c)) & (U_GC_ND_MASK | U_GC_NL_MASK | U_GC_NO_MASK)) !=
         0;
}
bool IsWhitespace(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)) != 0; }

// Spells each byte as a character of the byte-level alphabet.
class ByteLevel final : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, std::unique_ptr<PreTokenizer> split)
      : add_prefix_space_(add_prefix_space), split_(std::move(split)) {}

  absl::Status Split(std::vector<std::string>* pieces) const override {
    for (std::string& piece : *pieces) {
      if (add_prefix_space_ && !piece.empty() && piece[0] != ' ') piece.insert(0, 1, ' ');
    }
    if (split_ != nullptr) KV_RETURN_IF_ERROR(split_->Split(pieces));
    for (std::string& piece : *pieces) {
      std::string spelled;
      for (const char byte : piece)
        AppendUtf8(ByteToCharacter(static_cast<uint8_t>(byte)), &spelled);
      piece = std::move(spelled);
    }
    return absl::OkStatus();
  }

 private:
  const bool add_prefix_space_;
  const std::unique_ptr<PreTokenizer> split_;  // null without use_regex
};

class Sequence final : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> parts) : parts_(std::move(parts)) {}

  absl::Status Split(std::vector<std::string>* pieces) const override {
    for (const auto& part : parts_) KV_RETURN_IF_ERROR(part->Split(pieces));
    return absl::OkStatus();
  }

 private:
  const std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

absl::StatusOr<std::unique_ptr<PreTokenizer>> ReadSequence(const json& settings) {
  const json* list = FindField(settings, "pretokenizers");
  if (list == nullptr || !list->is_array()) {
    return FieldError("pre_tokenizer.pretokenizers", list == nullptr ? json() : *list, "a list");
  }
  std::vector<std::unique_ptr<PreTokenizer>> parts;
  for (const json& item : *list) {
    KV_ASSIGN_OR_RETURN(std::unique_ptr<PreTokenizer> part, NewPreTokenizer(&item));
    parts.push_back(std::move(part));
  }
  return std::unique_ptr<PreTokenizer>(new Sequence(std::move(parts)));
}

absl::StatusOr<std::unique_ptr<PreTokenizer>> ReadSplit(const json& settings) {
  KV_ASSIGN_OR_RETURN(const std::string name, ReadString(settings, "behavior"));
  KV_ASSIGN_OR_RETURN(const bool invert, ReadBoolOr(settings, "invert", false));
  Behavior behavior = Behavior::kIsolated;
  if (name == "Removed") {
    behavior = Behavior::kRemoved;
  } else if (name == "Contiguous") {
    behavior = Behavior::kContiguous;
  } else if (name != "Isolated") {
    return absl::UnimplementedError(
        absl::StrCat("pre_tokenizer.behavior: '", name,
                     "' is not implemented; allowed: Isolated, Removed, Contiguous"));
  }
  const json* pattern = FindField(settings, "pattern");
  if (pattern == nullptr) return FieldError("pre_tokenizer.pattern", {}, "Regex or String");
  const bool literal = FindField(*pattern, "String") != nullptr;
  KV_ASSIGN_OR_RETURN(const std::string text, ReadString(*pattern, literal ? "String" : "Regex"));
  return NewSplit(text, literal, behavior, invert);
}

absl::StatusOr<std::unique_ptr<PreTokenizer>> ReadByteLevel(const json& settings) {
  KV_ASSIGN_OR_RETURN(const bool prefix, ReadBoolOr(settings, "add_prefix_space", true));
  KV_ASSIGN_OR_RETURN(const bool use_regex, ReadBoolOr(settings, "use_regex", true));
  std::unique_ptr<PreTokenizer> split;
  if (use_regex) {
    KV_ASSIGN_OR_RETURN(split, NewSplit(kGpt2Pattern, false, Behavior::kIsolated, false));
  }
  return std::unique_ptr<PreTokenizer>(new ByteLevel(prefix, std::move(split)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<PreTokenizer>> NewPreTokenizer(const json* settings) {
  if (settings == nullptr || settings->is_null()) {
    return std::unique_ptr<PreTokenizer>(new Sequence({}));
  }
  KV_ASSIGN_OR_RETURN(const std::string type, ReadString(*settings, "type"));
  if (type == "Sequence") return ReadSequence(*settings);
  if (type == "Split") return ReadSplit(*settings);
  if (type == "ByteLevel") return ReadByteLevel(*settings);
  if (type == "Digits") {
    KV_ASSIGN_OR_RETURN(const bool individual, ReadBoolOr(*settings, "individual_digits", false));
    return std::unique_ptr<PreTokenizer>(
        new SplitByClass(IsNumeric, individual ? Behavior::kIsolated : Behavior::kContiguous));
  }
  if (type == "Whitespace") {
    return NewSplit(kWordPattern, false, Behavior::kRemoved, /*invert=*/true);
  }
  if (type == "WhitespaceSplit") {
    return std::unique_ptr<PreTokenizer>(new SplitByClass(IsWhitespace, Behavior::kRemoved));
  }
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.json: pre_tokenizer type '", type,
                   "' is not implemented; allowed: Sequence, Split, ByteLevel, Digits, "
                   "Whitespace, WhitespaceSplit"));
}

}  // namespace palimpsest
