// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/word_model.h"

#include <queue>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "services/decode/model/json_fields.h"
#include "services/decode/model/utf8.h"

namespace palimpsest {
namespace {

using nlohmann::json;

class WordLevel final : public WordModel {
 public:
  WordLevel(const Vocabulary* vocabulary, std::optional<int32_t> unknown)
      : vocabulary_(vocabulary), unknown_(unknown) {}

  void Encode(const std::string& word, std::vector<int32_t>* ids) const override {
    const std::optional<int32_t> id = vocabulary_->Id(word);
    if (id || unknown_) ids->push_back(id ? *id : *unknown_);
  }

 private:
  const Vocabulary* const vocabulary_;
  const std::optional<int32_t> unknown_;
};

struct Merge {
  int32_t rank;
  int32_t id;  // of the merged token
};

constexpr uint64_t PairKey(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

class Bpe final : public WordModel {
 public:
  using Merges = std::unordered_map<uint64_t, Merge>;
  struct Settings {
    std::optional<int32_t> unknown;
    bool fuse_unknown = false;
    bool ignore_merges = false;  // a word that is in the vocabulary is one token, merges or not
  };

  Bpe(const Vocabulary* vocabulary, Merges merges, const Settings& settings)
      : vocabulary_(vocabulary), merges_(std::move(merges)), settings_(settings) {}

  void Encode(const std::string& word, std::vector<int32_t>* ids) const override {
    if (settings_.ignore_merges) {
      if (const std::optional<int32_t> id = vocabulary_->Id(word)) return ids->push_back(*id);
    }
    std::vector<Symbol> symbols = Characters(word);
    MergeAll(&symbols);
    for (const Symbol& symbol : symbols) {
      if (symbol.id >= 0) ids->push_back(symbol.id);
    }
  }

 private:
  // A token of the word so far, in a list linked by index. A merged-away one has id -1.
  struct Symbol {
    int32_t id;
    int prev;
    int next;
  };
  struct Candidate {
    int32_t rank;
    int left;  // index of the left symbol
    int32_t left_id, right_id;
    bool operator>(const Candidate& other) const {
      return std::tie(rank, left) > std::tie(other.rank, other.left);
    }
  };
  using Queue = std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>>;

  std::vector<Symbol> Characters(const std::string& word) const {
    std::vector<Symbol> symbols;
    bool after_unknown = false;
    for (size_t at = 0; at < word.size();) {
      const size_t start = at;
      NextCodePoint(word, &at);
      const std::optional<int32_t> known =
          vocabulary_->Id(absl::string_view(word).substr(start, at - start));
      const bool fused = !known && after_unknown && settings_.fuse_unknown;
      after_unknown = !known;
      const std::optional<int32_t> id = known ? known : settings_.unknown;
      if (!id || fused) continue;
      const int index = static_cast<int>(symbols.size());
      symbols.push_back({*id, index - 1, index + 1});
    }
    if (!symbols.empty()) symbols.back().next = -1;
    return symbols;
  }

  void Offer(const std::vector<Symbol>& symbols, int left, Queue* queue) const {
    if (left < 0 || symbols[left].next < 0) return;
    const int32_t a = symbols[left].id;
    const int32_t b = symbols[symbols[left].next].id;
    const auto merge = merges_.find(PairKey(a, b));
    if (merge != merges_.end()) queue->push({merge->second.rank, left, a, b});
  }

  // Applies the merge of lowest rank, leftmost first, until none is left.
  void MergeAll(std::vector<Symbol>* symbols) const {
    Queue queue;
    for (size_t i = 0; i < symbols->size(); ++i) Offer(*symbols, static_cast<int>(i), &queue);
    while (!queue.empty()) {
      const Candidate best = queue.top();
      queue.pop();
      Symbol& left = (*symbols)[best.left];
      // An offer goes stale when either side has been merged since.
      if (left.id != best.left_id || left.next < 0) continue;
      Symbol& right = (*symbols)[left.next];
      if (right.id != best.right_id) continue;
      left.id = merges_.at(PairKey(best.left_id, best.right_id)).id;
      left.next = right.next;
      right.id = -1;
      if (left.next >= 0) (*symbols)[left.next].prev = best.left;
      Offer(*symbols, left.prev, &queue);
      Offer(*symbols, best.left, &queue);
    }
  }

  const Vocabulary* const vocabulary_;
  const Merges merges_;
  const Settings settings_;
};

// "a b" in older files, ["a", "b"] in newer ones.
std::optional<std::pair<std::string, std::string>> ReadPair(const json& item) {
  if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
    return std::pair(item[0].get<std::string>(), item[1].get<std::string>());
  }
  if (!item.is_string()) return std::nullopt;
  const std::string text = item.get<std::string>();
  const size_t space = text.find(' ');
  if (space == std::string::npos) return std::nullopt;
  return std::pair(text.substr(0, space), text.substr(space + 1));
}

absl::StatusOr<Bpe::Merges> ReadMerges(const json& settings, const Vocabulary& vocabulary) {
  const json* list = FindField(settings, "merges");
  if (list == nullptr || !list->is_array()) {
    return FieldError("model.merges", list == nullptr ? json() : *list, "a list");
  }
  Bpe::Merges merges;
  merges.reserve(list->size());
  int32_t rank = 0;
  for (const json& item : *list) {
    const auto pair = ReadPair(item);
    if (!pair) return FieldError("model.merges", item, "\"left right\" or [left, right]");
    const auto left = vocabulary.Id(pair->first);
    const auto right = vocabulary.Id(pair->second);
    const auto merged = vocabulary.Id(pair->first + pair->second);
    if (!left || !right || !merged) {
      return FieldError("model.merges", item, "parts and result in model.vocab");
    }
    // Of two equal pairs the last counts, as in the reference.
    merges.insert_or_assign(PairKey(*left, *right), Merge{rank++, *merged});
  }
  return merges;
}

absl::Status RefuseBpeVariants(const json& settings) {
  for (const absl::string_view key :
       {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const json* value = FindField(settings, key);
    if (value != nullptr && *value != "" && *value != 0.0) {
      return absl::UnimplementedError(
          absl::StrCat("tokenizer.json: model.", key, " is not implemented; allowed: null"));
    }
  }
  KV_ASSIGN_OR_RETURN(const bool byte_fallback, ReadBoolOr(settings, "byte_fallback", false));
  if (byte_fallback) {
    return absl::UnimplementedError(
        "tokenizer.json: model.byte_fallback (SentencePiece style) is not implemented; allowed: "
        "false");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<int32_t>> ReadUnknown(const json& settings,
                                                   const Vocabulary& vocabulary) {
  if (FindField(settings, "unk_token") == nullptr) return std::optional<int32_t>();
  KV_ASSIGN_OR_RETURN(const std::string token, ReadString(settings, "unk_token"));
  // WordLevel files name "<unk>" by default, in the vocabulary or not; text then has no such id.
  return vocabulary.Id(token);
}

}  // namespace

absl::StatusOr<Vocabulary> Vocabulary::Read(const json* vocab) {
  if (vocab == nullptr || !vocab->is_object()) {
    return FieldError("model.vocab", vocab == nullptr ? json() : *vocab, "an object of ids");
  }
  Vocabulary out;
  for (const auto& [token, id] : vocab->items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= uint64_t{kTokenIdsMax}) {
      return FieldError("model.vocab", id, absl::StrCat("an id from 0 to ", kTokenIdsMax - 1));
    }
    if (out.Token(id.get<int32_t>()) != nullptr) {
      return FieldError("model.vocab", id, "each id once");
    }
    out.Set(token, id.get<int32_t>());
  }
  return out;
}

void Vocabulary::Set(absl::string_view token, int32_t id) {
  if (static_cast<size_t>(id) >= tokens_.size()) tokens_.resize(id + 1);
  tokens_[id] = std::string(token);
  ids_[std::string(token)] = id;
}

std::optional<int32_t> Vocabulary::Id(absl::string_view token) const {
  const auto found = ids_.find(std::string(token));
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const std::string* Vocabulary::Token(int32_t id) const {
  const bool known = id >= 0 && id < size() && tokens_[id].has_value();
  return known ? &*tokens_[id] : nullptr;
}

absl::StatusOr<std::unique_ptr<WordModel>> NewWordModel(const json& settings,
                                                        const Vocabulary* vocabulary) {
  KV_ASSIGN_OR_RETURN(const std::string type, ReadString(settings, "type"));
  KV_ASSIGN_OR_RETURN(const std::optional<int32_t> unknown, ReadUnknown(settings, *vocabulary));
  if (type == "WordLevel") {
    return std::unique_ptr<WordModel>(new WordLevel(vocabulary, unknown));
  }
  if (type != "BPE") {
    return absl::UnimplementedError(absl::StrCat("tokenizer.json: model type '", type,
                                                 "' is not implemented; allowed: BPE, WordLevel"));
  }
  KV_RETURN_IF_ERROR(RefuseBpeVariants(settings));
  Bpe::Settings bpe{.unknown = unknown};
  KV_ASSIGN_OR_RETURN(bpe.fuse_unknown, ReadBoolOr(settings, "fuse_unk", false));
  KV_ASSIGN_OR_RETURN(bpe.ignore_merges, ReadBoolOr(settings, "ignore_merges", false));
  KV_ASSIGN_OR_RETURN(Bpe::Merges merges, ReadMerges(settings, *vocabulary));
  return std::unique_ptr<WordModel>(new Bpe(vocabulary, std::move(merges), bpe));
}

}  // namespace palimpsest
