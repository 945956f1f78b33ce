// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/tokenizer.h"

#include <unicode/normalizer2.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "services/decode/model/json_fields.h"
#include "services/decode/model/pre_tokenizer.h"
#include "services/decode/model/utf8.h"
#include "services/decode/model/word_model.h"

namespace palimpsest {
namespace {

using nlohmann::json;

constexpr size_t kFileBytesMax = 64u << 20;
constexpr size_t kAddedTokensMax = 1u << 16;

// Tokens found in the text itself, before any splitting: the longest that starts at a place.
class AddedTokens {
 public:
  void Add(std::string content, int32_t id) {
    by_first_byte_[static_cast<uint8_t>(content[0])].push_back({std::move(content), id});
  }
  void Finish() {
    for (auto& tokens : by_first_byte_) {
      std::stable_sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) {
        return a.content.size() > b.content.size();
      });
    }
  }

  struct Found {
    size_t start, end;
    int32_t id;
  };
  std::optional<Found> FindNext(absl::string_view text, size_t from) const {
    for (size_t at = from; at < text.size(); ++at) {
      for (const Entry& entry : by_first_byte_[static_cast<uint8_t>(text[at])]) {
        if (absl::StartsWith(text.substr(at), entry.content)) {
          return Found{at, at + entry.content.size(), entry.id};
        }
      }
    }
    return std::nullopt;
  }

 private:
  struct Entry {
    std::string content;
    int32_t id;
  };
  std::array<std::vector<Entry>, 256> by_first_byte_;
};

// What a tokenizer.json says, read and checked.
struct Parts {
  Vocabulary vocabulary;
  AddedTokens added;             // looked for in the text as it was given
  AddedTokens added_normalized;  // looked for after normalisation
  std::set<int32_t> special;
  bool nfc = false;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  std::unique_ptr<WordModel> model;
  bool byte_level = false;  // how ids become text: bytes run together, or words with spaces between
  std::vector<int32_t> prefix, suffix;  // the template's special tokens
};

absl::Status NotImplemented(absl::string_view part, absl::string_view type,
                            absl::string_view allowed) {
  return absl::UnimplementedError(absl::StrCat("tokenizer.json: ", part, " type '", type,
                                               "' is not implemented; allowed: ", allowed));
}

absl::Status ReadNormalizer(const json* settings, Parts* out) {
  if (settings == nullptr) return absl::OkStatus();
  KV_ASSIGN_OR_RETURN(const std::string type, ReadString(*settings, "type"));
  if (type == "NFC") {
    out->nfc = true;
    return absl::OkStatus();
  }
  const json* parts = FindField(*settings, "normalizers");
  if (type != "Sequence" || parts == nullptr || !parts->is_array()) {
    return NotImplemented("normalizer", type, "null, NFC, Sequence");
  }
  for (const json& part : *parts) KV_RETURN_IF_ERROR(ReadNormalizer(&part, out));
  return absl::OkStatus();
}

absl::Status ReadDecoder(const json* settings, Parts* out) {
  if (settings == nullptr) return absl::OkStatus();
  KV_ASSIGN_OR_RETURN(const std::string type, ReadString(*settings, "type"));
  if (type != "ByteLevel") return NotImplemented("decoder", type, "null, ByteLevel");
  out->byte_level = true;
  return absl::OkStatus();
}

absl::Status ReadTemplate(const json& settings, Parts* out) {
  const json* single = FindField(settings, "single");
  if (single == nullptr || !single->is_array()) {
    return FieldError("post_processor.single", single == nullptr ? json() : *single, "a list");
  }
  bool after_text = false;
  for (const json& piece : *single) {
    if (FindField(piece, "Sequence") != nullptr) {
      if (after_text) return FieldError("post_processor.single", *single, "one Sequence");
      after_text = true;
      continue;
    }
    const json* token = FindField(piece, "SpecialToken");
    if (token == nullptr) {
      return FieldError("post_processor.single", piece, "Sequence or SpecialToken");
    }
    KV_ASSIGN_OR_RETURN(const std::string name, ReadString(*token, "id"));
    const std::optional<int32_t> id = out->vocabulary.Id(name);
    if (!id) return FieldError("post_processor.single", piece, "a token of the vocabulary");
    (after_text ? out->suffix : out->prefix).push_back(*id);
  }
  if (!after_text) return FieldError("post_processor.single", *single, "one Sequence");
  return absl::OkStatus();
}

absl::Status ReadPostProcessor(const json* settings, Parts* out) {
  if (settings == nullptr) return absl::OkStatus();
  KV_ASSIGN_OR_RETURN(const std::string type, ReadString(*settings, "type"));
  if (type == "ByteLevel") return absl::OkStatus();  // it only trims offsets, which nobody has
  if (type == "TemplateProcessing") return ReadTemplate(*settings, out);
  const json* parts = FindField(*settings, "processors");
  if (type != "Sequence" || parts == nullptr || !parts->is_array()) {
    return NotImplemented("post_processor", type, "null, ByteLevel, TemplateProcessing, Sequence");
  }
  for (const json& part : *parts) KV_RETURN_IF_ERROR(ReadPostProcessor(&part, out));
  return absl::OkStatus();
}

absl::Status ReadAddedToken(const json& token, Parts* out) {
  KV_ASSIGN_OR_RETURN(const std::string content, ReadString(token, "content"));
  KV_ASSIGN_OR_RETURN(const int64_t id, ReadInt(token, {"id", 0, kTokenIdsMax - 1}));
  if (content.empty()) return FieldError("added_tokens", token, "content that is not empty");
  for (const absl::string_view flag : {"single_word", "lstrip", "rstrip"}) {
    KV_ASSIGN_OR_RETURN(const bool set, ReadBoolOr(token, flag, false));
    if (set) {
      return absl::UnimplementedError(absl::StrCat("tokenizer.json: added token '", content,
                                                   "': ", flag, " is not implemented"));
    }
  }
  KV_ASSIGN_OR_RETURN(const bool special, ReadBoolOr(token, "special", false));
  KV_ASSIGN_OR_RETURN(const bool normalized, ReadBoolOr(token, "normalized", !special));
  out->vocabulary.Set(content, static_cast<int32_t>(id));
  if (special) out->special.insert(static_cast<int32_t>(id));
  (normalized ? out->added_normalized : out->added).Add(content, static_cast<int32_t>(id));
  return absl::OkStatus();
}

absl::Status ReadAddedTokens(const json* list, Parts* out) {
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_array() || list->size() > kAddedTokensMax) {
    return FieldError("added_tokens", list->is_array() ? json(list->size()) : *list,
                      absl::StrCat("a list of at most ", kAddedTokensMax));
  }
  for (const json& token : *list) KV_RETURN_IF_ERROR(ReadAddedToken(token, out));
  out->added.Finish();
  out->added_normalized.Finish();
  return absl::OkStatus();
}

class JsonTokenizer final : public Tokenizer {
 public:
  explicit JsonTokenizer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              bool add_special) const override {
    if (!IsUtf8(text)) return absl::InvalidArgumentError("text is not UTF-8");
    std::vector<int32_t> ids;
    if (add_special) ids = parts_->prefix;
    KV_RETURN_IF_ERROR(CutAt(parts_->added, text, &ids,
                             [&](absl::string_view piece) { return EncodeGiven(piece, &ids); }));
    if (add_special) ids.insert(ids.end(), parts_->suffix.begin(), parts_->suffix.end());
    return ids;
  }

  std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const override {
    std::string bytes;
    bool is_first = true;
    for (const int32_t id : ids) {
      if (parts_->vocabulary.Token(id) == nullptr || (skip_special && IsSpecial(id))) continue;
      bytes += TokenBytes(id, is_first);
      is_first = false;
    }
    return RepairUtf8(bytes);
  }

  std::string TokenBytes(int32_t id, bool is_first) const override {
    const std::string* token = parts_->vocabulary.Token(id);
    if (token == nullptr) return "";
    if (!parts_->byte_level) return is_first ? *token : absl::StrCat(" ", *token);
    std::string bytes;
    for (size_t at = 0; at < token->size();) {
      const int byte = CharacterToByte(NextCodePoint(*token, &at));
      if (byte < 0) return *token;  // an added token, spelled as it is read
      bytes.push_back(static_cast<char>(byte));
    }
    return bytes;
  }

  std::optional<int32_t> TokenId(absl::string_view token) const override {
    return parts_->vocabulary.Id(token);
  }
  bool IsSpecial(int32_t id) const override { return parts_->special.count(id) > 0; }
  int vocab_size() const override { return parts_->vocabulary.size(); }

 private:
  // Calls `encode` for the text between added tokens, and appends the ids of those.
  template <typename Encode>
  static absl::Status CutAt(const AddedTokens& added, absl::string_view text,
                            std::vector<int32_t>* ids, Encode encode) {
    size_t done = 0;
    while (const auto found = added.FindNext(text, done)) {
      if (found->start > done) {
        KV_RETURN_IF_ERROR(encode(text.substr(done, found->start - done)));
      }
      ids->push_back(found->id);
      done = found->end;
    }
    return done < text.size() ? encode(text.substr(done)) : absl::OkStatus();
  }

  absl::Status EncodeGiven(absl::string_view text, std::vector<int32_t>* ids) const {
    std::string normalized(text);
    if (parts_->nfc) {
      UErrorCode error = U_ZERO_ERROR;
      const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(error);
      if (U_FAILURE(error)) return absl::InternalError(u_errorName(error));
      normalized.clear();
      nfc->normalize(icu::UnicodeString::fromUTF8(std::string(text)), error)
          .toUTF8String(normalized);
      if (U_FAILURE(error)) return absl::InternalError(u_errorName(error));
    }
    return CutAt(parts_->added_normalized, normalized, ids,
                 [&](absl::string_view piece) { return EncodeNormalized(piece, ids); });
  }

  absl::Status EncodeNormalized(absl::string_view text, std::vector<int32_t>* ids) const {
    std::vector<std::string> words = {std::string(text)};
    KV_RETURN_IF_ERROR(parts_->pre_tokenizer->Split(&words));
    for (const std::string& word : words) parts_->model->Encode(word, ids);
    return absl::OkStatus();
  }

  const std::unique_ptr<const Parts> parts_;  // on the heap: the model points at the vocabulary
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizer(absl::string_view json_text) {
  KV_ASSIGN_OR_RETURN(const json file, ParseJson(json_text, "tokenizer.json"));
  const json* model = FindField(file, "model");
  if (model == nullptr) return FieldError("tokenizer.json model", {}, "an object");
  auto parts = std::make_unique<Parts>();
  KV_ASSIGN_OR_RETURN(parts->vocabulary, Vocabulary::Read(FindField(*model, "vocab")));
  KV_ASSIGN_OR_RETURN(parts->model, NewWordModel(*model, &parts->vocabulary));
  KV_RETURN_IF_ERROR(ReadAddedTokens(FindField(file, "added_tokens"), parts.get()));
  KV_RETURN_IF_ERROR(ReadNormalizer(FindField(file, "normalizer"), parts.get()));
  KV_ASSIGN_OR_RETURN(parts->pre_tokenizer, NewPreTokenizer(FindField(file, "pre_tokenizer")));
  KV_RETURN_IF_ERROR(ReadPostProcessor(FindField(file, "post_processor"), parts.get()));
  KV_RETURN_IF_ERROR(ReadDecoder(FindField(file, "decoder"), parts.get()));
  return std::unique_ptr<Tokenizer>(new JsonTokenizer(std::move(parts)));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& folder) {
  KV_ASSIGN_OR_RETURN(const std::string text,
                      ReadWholeFile(absl::StrCat(folder, "/tokenizer.json"), kFileBytesMax));
  return ParseTokenizer(text);
}

std::string StreamDecoder::Push(int32_t id) {
  if (tokenizer_->IsSpecial(id)) return "";
  const std::string bytes = tokenizer_->TokenBytes(id, is_first_);
  if (bytes.empty()) return "";
  is_first_ = false;
  pending_ += bytes;
  const size_t whole = CompleteUtf8Prefix(pending_);
  const std::string text = RepairUtf8(absl::string_view(pending_).substr(0, whole));
  pending_.erase(0, whole);
  return text;
}

std::string StreamDecoder::Flush() {
  is_first_ = true;
  return RepairUtf8(std::exchange(pending_, ""));
}

}  // namespace palimpsest
