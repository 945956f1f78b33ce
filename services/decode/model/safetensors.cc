// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/check.h"
#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "services/decode/model/json_fields.h"

namespace palimpsest {
namespace {

using nlohmann::json;

constexpr char kMetadataKey[] = "__metadata__";
constexpr size_t kLengthBytes = 8;
constexpr uint64_t kHeaderBytesMax = 100u << 20;  // the bound of the reference reader
constexpr size_t kIndexBytesMax = 64u << 20;
constexpr size_t kRankMax = 8;
constexpr size_t kShardsMax = 4096;

struct ElementType {
  absl::string_view name;
  TensorType type;
  uint64_t bytes;
};

// All types of the format, so that offsets of tensors we never read are checked too.
constexpr ElementType kElementTypes[] = {
    {"F32", TensorType::kFloat32, 4},  {"BF16", TensorType::kBfloat16, 2},
    {"F16", TensorType::kFloat16, 2},  {"F64", TensorType::kOther, 8},
    {"I64", TensorType::kOther, 8},    {"I32", TensorType::kOther, 4},
    {"I16", TensorType::kOther, 2},    {"I8", TensorType::kOther, 1},
    {"U64", TensorType::kOther, 8},    {"U32", TensorType::kOther, 4},
    {"U16", TensorType::kOther, 2},    {"U8", TensorType::kOther, 1},
    {"BOOL", TensorType::kOther, 1},   {"F8_E4M3", TensorType::kOther, 1},
    {"F8_E5M2", TensorType::kOther, 1}};

absl::Status Malformed(absl::string_view name, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("safetensors: tensor '", name, "': ", why));
}

// A JSON list of unsigned numbers, each at most `max`; nothing when it is anything else.
std::optional<std::vector<uint64_t>> ReadUnsignedList(const json* list, size_t count_max,
                                                      uint64_t max) {
  if (list == nullptr || !list->is_array() || list->size() > count_max) return std::nullopt;
  std::vector<uint64_t> out;
  for (const json& item : *list) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > max) return std::nullopt;
    out.push_back(item.get<uint64_t>());
  }
  return out;
}

struct Extent {
  uint64_t begin;
  uint64_t end;
  const std::string* name;
};

// Reads one header entry. `data` is what follows the header.
absl::StatusOr<TensorView> ReadEntry(const std::string& name, const json& entry,
                                     absl::Span<const uint8_t> data) {
  const json* dtype = FindField(entry, "dtype");
  const auto element =
      std::find_if(std::begin(kElementTypes), std::end(kElementTypes), [&](const ElementType& e) {
        return dtype != nullptr && dtype->is_string() &&
               dtype->get_ref<const std::string&>() == e.name;
      });
  if (element == std::end(kElementTypes)) return Malformed(name, "dtype is unknown or missing");
  const auto shape = ReadUnsignedList(FindField(entry, "shape"), kRankMax, uint64_t{1} << 40);
  if (!shape) return Malformed(name, "shape is not a list of at most 8 sizes");
  const auto offsets = ReadUnsignedList(FindField(entry, "data_offsets"), 2, data.size());
  if (!offsets || offsets->size() != 2 || (*offsets)[0] > (*offsets)[1]) {
    return Malformed(name, "data_offsets are not [begin, end] inside the file");
  }
  TensorView view{.type = element->type, .shape = {shape->begin(), shape->end()}, .bytes = {}};
  const uint64_t bytes = (*offsets)[1] - (*offsets)[0];
  // Division, not multiplication: the product of hostile sizes overflows.
  uint64_t left = bytes / element->bytes;
  bool fits = bytes % element->bytes == 0;
  const bool empty = std::find(shape->begin(), shape->end(), 0u) != shape->end();
  for (const uint64_t size : *shape) {
    if (empty || !fits) break;
    fits = left % size == 0;
    left /= size;
  }
  if (empty ? bytes != 0 : (!fits || left != 1)) {
    return Malformed(name, "data_offsets do not match shape and dtype");
  }
  view.bytes = data.subspan((*offsets)[0], bytes);
  return view;
}

// The format has neither holes nor overlaps: a file that has them was damaged or forged.
absl::Status CheckCoverage(std::vector<Extent> extents, uint64_t data_bytes) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  uint64_t reached = 0;
  for (const Extent& extent : extents) {
    if (extent.begin != reached) {
      return Malformed(*extent.name, "overlaps its neighbour or leaves a hole");
    }
    reached = extent.end;
  }
  if (reached != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors: tensors cover ", reached, " of ", data_bytes, " data bytes"));
  }
  return absl::OkStatus();
}

struct Image {
  json header;  // an object
  absl::Span<const uint8_t> data;
};

absl::StatusOr<Image> SplitFile(absl::Span<const uint8_t> file) {
  static_assert(std::endian::native == std::endian::little);
  uint64_t header_bytes = 0;
  if (file.size() < kLengthBytes) {
    return absl::InvalidArgumentError("safetensors: shorter than its 8-byte length");
  }
  std::memcpy(&header_bytes, file.data(), kLengthBytes);
  if (header_bytes > kHeaderBytesMax || header_bytes > file.size() - kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors: header of ", header_bytes, " bytes in a file of ", file.size()));
  }
  const absl::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes,
                               header_bytes);
  KV_ASSIGN_OR_RETURN(json header, ParseJson(text, "safetensors header"));
  if (!header.is_object()) return FieldError("safetensors header", header, "an object");
  return Image{std::move(header), file.subspan(kLengthBytes + header_bytes)};
}

// What a folder's weights are: files, and the tensors that must be in them.
struct WeightIndex {
  std::set<std::string> files;
  std::vector<std::string> tensors;  // empty: whatever the one file has
};

absl::StatusOr<WeightIndex> ReadIndex(const std::string& text) {
  KV_ASSIGN_OR_RETURN(const json index, ParseJson(text, "model.safetensors.index.json"));
  const json* map = FindField(index, "weight_map");
  if (map == nullptr || !map->is_object()) {
    return FieldError("weight_map", map == nullptr ? json() : *map, "an object of file names");
  }
  WeightIndex weights;
  for (const auto& [name, file] : map->items()) {
    const bool plain =
        file.is_string() && !file.get<std::string>().empty() &&
        file.get<std::string>().find_first_of(std::string("/\\\0", 3)) == std::string::npos;
    if (!plain) return FieldError("weight_map", file, "a file name without folders");
    weights.files.insert(file.get<std::string>());
    weights.tensors.push_back(name);
  }
  if (weights.files.size() > kShardsMax) {
    return absl::InvalidArgumentError(absl::StrCat("weight_map: ", weights.files.size(),
                                                   " shards, at most ", kShardsMax, " allowed"));
  }
  return weights;
}

absl::StatusOr<WeightIndex> FindWeights(const std::string& folder) {
  const std::string single = absl::StrCat(folder, "/model.safetensors");
  std::error_code ignored;
  if (std::filesystem::exists(single, ignored)) {
    return WeightIndex{.files = {"model.safetensors"}, .tensors = {}};
  }
  const std::string index = absl::StrCat(single, ".index.json");
  const absl::StatusOr<std::string> text = ReadWholeFile(index, kIndexBytesMax);
  if (absl::IsNotFound(text.status())) {
    return absl::NotFoundError(absl::StrCat("neither ", single, " nor ", index, " exists"));
  }
  KV_RETURN_IF_ERROR(text.status());
  return ReadIndex(*text);
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 31;
  const uint32_t mantissa = half & 0x3ff;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t biased = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | biased << 23 | mantissa << 13);
}

}  // namespace

int64_t TensorView::elements() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

absl::StatusOr<std::map<std::string, TensorView, std::less<>>> ParseSafetensors(
    absl::Span<const uint8_t> file) {
  KV_ASSIGN_OR_RETURN(const Image image, SplitFile(file));
  const auto& [header, data] = image;
  std::map<std::string, TensorView, std::less<>> tensors;
  std::vector<Extent> extents;
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadataKey) continue;
    KV_ASSIGN_OR_RETURN(TensorView view, ReadEntry(name, entry, data));
    const auto [placed, is_new] = tensors.emplace(name, std::move(view));
    KV_CHECK(is_new);  // keys of a parsed object are distinct
    const absl::Span<const uint8_t> bytes = placed->second.bytes;
    const uint64_t begin = bytes.data() - data.data();
    extents.push_back({begin, begin + bytes.size(), &placed->first});
  }
  KV_RETURN_IF_ERROR(CheckCoverage(std::move(extents), data.size()));
  return tensors;
}

absl::StatusOr<std::map<std::string, std::string>> ParseSafetensorsMetadata(
    absl::Span<const uint8_t> file) {
  KV_ASSIGN_OR_RETURN(const Image image, SplitFile(file));
  std::map<std::string, std::string> metadata;
  const json* entries = FindField(image.header, kMetadataKey);
  if (entries == nullptr) return metadata;
  if (!entries->is_object()) return FieldError(kMetadataKey, *entries, "an object");
  for (const auto& [key, value] : entries->items()) {
    if (!value.is_string()) return FieldError(key, value, "text");
    metadata.emplace(key, value.get<std::string>());
  }
  return metadata;
}

void CopyAsFloat(const TensorView& tensor, absl::Span<float> out) {
  KV_CHECK(static_cast<int64_t>(out.size()) == tensor.elements());
  const uint8_t* bytes = tensor.bytes.data();
  if (tensor.type == TensorType::kFloat32) {
    if (!out.empty()) std::memcpy(out.data(), bytes, tensor.bytes.size());
    return;
  }
  KV_CHECK(tensor.type != TensorType::kOther);
  for (size_t i = 0; i < out.size(); ++i) {  // tensors need not be aligned: memcpy each element
    uint16_t bits;
    std::memcpy(&bits, bytes + 2 * i, 2);
    out[i] = tensor.type == TensorType::kBfloat16
                 ? std::bit_cast<float>(static_cast<uint32_t>(bits) << 16)
                 : HalfToFloat(bits);
  }
}

absl::StatusOr<std::vector<std::string>> WeightFiles(const std::string& folder) {
  KV_ASSIGN_OR_RETURN(const WeightIndex weights, FindWeights(folder));
  return std::vector<std::string>(weights.files.begin(), weights.files.end());
}

WeightStore::~WeightStore() {
  for (const Mapping& mapping : mappings_) munmap(mapping.data, mapping.bytes);
}

absl::Status WeightStore::MapFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  struct stat info;
  if (fstat(fd, &info) != 0 || info.st_size <= 0) {
    close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, ": empty or not a file"));
  }
  const size_t bytes = static_cast<size_t>(info.st_size);
  void* data = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  const int map_error = errno;
  close(fd);
  if (data == MAP_FAILED) return absl::ErrnoToStatus(map_error, path);
  mappings_.push_back({data, bytes});
  auto tensors = ParseSafetensors({static_cast<const uint8_t*>(data), bytes});
  if (!tensors.ok()) {
    return absl::Status(tensors.status().code(),
                        absl::StrCat(path, ": ", tensors.status().message()));
  }
  for (auto& [name, view] : *tensors) {
    if (!tensors_.emplace(name, std::move(view)).second) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": '", name, "' is in two shards"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<WeightStore>> WeightStore::Open(const std::string& folder) {
  KV_ASSIGN_OR_RETURN(const WeightIndex weights, FindWeights(folder));
  std::unique_ptr<WeightStore> store(new WeightStore);
  for (const std::string& file : weights.files) {
    KV_RETURN_IF_ERROR(store->MapFile(absl::StrCat(folder, "/", file)));
  }
  for (const std::string& name : weights.tensors) {
    if (!store->Has(name)) return Malformed(name, "named by the index, but in no shard");
  }
  return store;
}

absl::StatusOr<TensorView> WeightStore::Find(absl::string_view name,
                                             absl::Span<const int64_t> shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat("weights have no tensor '", name, "'"));
  }
  const TensorView& tensor = found->second;
  if (shape != absl::MakeConstSpan(tensor.shape)) {
    return Malformed(
        name, absl::StrCat("shape [", absl::StrJoin(tensor.shape, ", "), "], the config asks for [",
                           absl::StrJoin(shape, ", "), "]"));
  }
  if (tensor.type == TensorType::kOther) {
    return absl::UnimplementedError(
        absl::StrCat("tensor '", name, "': only F32, BF16 and F16 weights are read"));
  }
  return tensor;
}

absl::StatusOr<std::vector<float>> WeightStore::ReadFloats(absl::string_view name,
                                                           absl::Span<const int64_t> shape) const {
  KV_ASSIGN_OR_RETURN(const TensorView tensor, Find(name, shape));
  std::vector<float> out(static_cast<size_t>(tensor.elements()));
  CopyAsFloat(tensor, absl::MakeSpan(out));
  return out;
}

}  // namespace palimpsest
