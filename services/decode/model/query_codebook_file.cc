// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/query_codebook_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/check.h"
#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "nlohmann/json.hpp"
#include "services/decode/model/rope.h"
#include "services/decode/model/safetensors.h"

namespace palimpsest {
namespace {

using Metadata = std::map<std::string, std::string>;

constexpr char kFormat[] = "palimpsest-query-codebook";
constexpr char kTensor[] = "queries";
constexpr char kShares[] = "lane_shares";
constexpr size_t kHeaderAlignment = 8;  // the format's own writer keeps it
constexpr size_t kFileBytesMax = size_t{8} << 30;

absl::Status Refuse(absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("query codebook: ", field, ": ", what));
}

size_t Values(const QueryCodebook& book) {
  return static_cast<size_t>(book.layers) * static_cast<size_t>(book.query_heads) * book.queries *
         static_cast<size_t>(book.head_dim);
}

std::string Found(const Metadata& metadata, const std::string& key) {
  const auto entry = metadata.find(key);
  return entry == metadata.end() ? "nothing" : Quoted(entry->second);
}

template <typename T>
absl::Status ReadCount(const Metadata& metadata, const std::string& key, T& out) {
  const auto entry = metadata.find(key);
  if (entry != metadata.end() && absl::SimpleAtoi(entry->second, &out)) return absl::OkStatus();
  return Refuse(key, absl::StrCat("found ", Found(metadata, key), ", expected a count"));
}

// First of all what the file is: another version may say anything else in another way.
absl::Status CheckHeader(const Metadata& metadata) {
  const auto format = metadata.find("format");
  if (format == metadata.end() || format->second != kFormat) {
    return Refuse("format",
                  absl::StrCat("found ", Found(metadata, "format"), ", expected '", kFormat, "'"));
  }
  uint32_t version = 0;
  KV_RETURN_IF_ERROR(ReadCount(metadata, "version", version));
  if (version == kQueryCodebookVersion) return absl::OkStatus();
  return Refuse("version", absl::StrCat(version, " is not known here, expected ",
                                        kQueryCodebookVersion, "; calibrate again"));
}

absl::Status CheckFingerprint(const Metadata& metadata, absl::string_view expected) {
  const auto found = metadata.find("model_fingerprint");
  if (found == metadata.end() || found->second.empty()) {
    return Refuse("model_fingerprint", "missing");
  }
  if (found->second == expected) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("query codebook: model_fingerprint ", Escaped(found->second, 64),
                   ": made for another model than this one (", expected, "); calibrate again"));
}

// Checks type and shape; returns the queries of each head.
absl::StatusOr<uint32_t> CheckTensor(const TensorView& tensor, const ModelConfig& config) {
  if (tensor.type != TensorType::kBfloat16) return Refuse(kTensor, "expected the type BF16");
  const std::vector<int64_t>& shape = tensor.shape;
  const bool fits = shape.size() == 4 && shape[0] == config.layers &&
                    shape[1] == config.query_heads && shape[3] == config.head_dim;
  if (!fits) {
    return Refuse(kTensor, absl::StrCat("shape [", absl::StrJoin(shape, ", "),
                                        "], the model asks for [", config.layers, ", ",
                                        config.query_heads, ", queries, ", config.head_dim, "]"));
  }
  if (shape[2] < 16 || shape[2] > int64_t{kCodebookQueriesMax} || shape[2] % 16 != 0) {
    return Refuse(kTensor, absl::StrCat(shape[2],
                                        " queries a head, expected a multiple of 16 from "
                                        "16 to ",
                                        kCodebookQueriesMax));
  }
  return static_cast<uint32_t>(shape[2]);
}

absl::StatusOr<std::vector<float>> ReadShares(const TensorView& tensor, const ModelConfig& config) {
  if (tensor.type != TensorType::kFloat32) return Refuse(kShares, "expected the type F32");
  if (tensor.shape != std::vector<int64_t>{config.layers, config.kv_heads}) {
    return Refuse(kShares, absl::StrCat("shape [", absl::StrJoin(tensor.shape, ", "),
                                        "], the model asks for [", config.layers, ", ",
                                        config.kv_heads, "]"));
  }
  std::vector<float> shares(tensor.bytes.size() / sizeof(float));
  std::memcpy(shares.data(), tensor.bytes.data(), tensor.bytes.size());
  const absl::Status status = CheckLaneShares(shares, shares.size());
  if (status.ok()) return shares;
  return absl::Status(status.code(), absl::StrCat("query codebook: ", status.message()));
}

bool IsFinite(uint16_t bf16) {
  constexpr uint16_t kExponent = 0x7f80;
  return (bf16 & kExponent) != kExponent;
}

}  // namespace

std::string ToSafetensors(const QueryCodebookFile& file) {
  static_assert(std::endian::native == std::endian::little);
  const QueryCodebook& book = file.codebook;
  KV_CHECK(book.data.size() == Values(book));
  const size_t query_bytes = book.data.size() * sizeof(uint16_t);
  const size_t share_bytes = book.lane_shares.size() * sizeof(float);
  nlohmann::ordered_json header = {
      {"__metadata__",
       {{"format", kFormat},
        {"version", absl::StrCat(kQueryCodebookVersion)},
        {"model_fingerprint", file.model_fingerprint},
        {"prompts", absl::StrCat(file.prompts)},
        {"tokens", absl::StrCat(file.tokens)},
        {"samples", absl::StrCat(file.samples)}}},
      {kTensor,
       {{"dtype", "BF16"},
        {"shape", {book.layers, book.query_heads, book.queries, book.head_dim}},
        {"data_offsets", {size_t{0}, query_bytes}}}}};
  if (!book.lane_shares.empty()) {
    const size_t layers = static_cast<size_t>(book.layers);
    KV_CHECK(book.lane_shares.size() % layers == 0);
    header[kShares] = {{"dtype", "F32"},
                       {"shape", {layers, book.lane_shares.size() / layers}},
                       {"data_offsets", {query_bytes, query_bytes + share_bytes}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');
  const uint64_t header_bytes = text.size();
  std::string out(reinterpret_cast<const char*>(&header_bytes), sizeof header_bytes);
  out += text;
  out.append(reinterpret_cast<const char*>(book.data.data()), query_bytes);
  return out.append(reinterpret_cast<const char*>(book.lane_shares.data()), share_bytes);
}

absl::StatusOr<QueryCodebookFile> ParseQueryCodebook(absl::string_view bytes,
                                                     const ModelConfig& config,
                                                     absl::string_view model_fingerprint) {
  const absl::Span<const uint8_t> image(reinterpret_cast<const uint8_t*>(bytes.data()),
                                        bytes.size());
  KV_ASSIGN_OR_RETURN(const Metadata metadata, ParseSafetensorsMetadata(image));
  KV_RETURN_IF_ERROR(CheckHeader(metadata));
  KV_RETURN_IF_ERROR(CheckFingerprint(metadata, model_fingerprint));
  KV_ASSIGN_OR_RETURN(const auto tensors, ParseSafetensors(image));
  const auto found = tensors.find(kTensor);
  if (found == tensors.end()) return Refuse(kTensor, "missing");
  KV_ASSIGN_OR_RETURN(const uint32_t queries, CheckTensor(found->second, config));
  QueryCodebookFile file{.model_fingerprint = std::string(model_fingerprint), .codebook = {}};
  KV_RETURN_IF_ERROR(ReadCount(metadata, "prompts", file.prompts));
  KV_RETURN_IF_ERROR(ReadCount(metadata, "tokens", file.tokens));
  KV_RETURN_IF_ERROR(ReadCount(metadata, "samples", file.samples));
  QueryCodebook& book = file.codebook;
  book = {.layers = config.layers,
          .query_heads = config.query_heads,
          .head_dim = config.head_dim,
          .queries = queries,
          .data = {},
          .inverse_frequencies = InverseFrequencies(config.rope, config.head_dim),
          .attention_factor = static_cast<float>(config.rope.attention_factor)};
  book.data.resize(Values(book));
  std::memcpy(book.data.data(), found->second.bytes.data(), found->second.bytes.size());
  if (!std::all_of(book.data.begin(), book.data.end(), IsFinite)) {
    return Refuse(kTensor, "a value is not finite");
  }
  if (const auto shares = tensors.find(kShares); shares != tensors.end()) {
    KV_ASSIGN_OR_RETURN(book.lane_shares, ReadShares(shares->second, config));
  }
  return file;
}

absl::Status SaveQueryCodebook(const std::string& path, const QueryCodebookFile& file) {
  return ReplaceFile(path, ToSafetensors(file));
}

absl::StatusOr<QueryCodebookFile> LoadQueryCodebook(const std::string& path,
                                                    const ModelConfig& config,
                                                    absl::string_view model_fingerprint) {
  KV_ASSIGN_OR_RETURN(const std::string bytes, ReadWholeFile(path, kFileBytesMax));
  absl::StatusOr<QueryCodebookFile> file = ParseQueryCodebook(bytes, config, model_fingerprint);
  if (file.ok()) return file;
  return absl::Status(file.status().code(), absl::StrCat(path, ": ", file.status().message()));
}

}  // namespace palimpsest
