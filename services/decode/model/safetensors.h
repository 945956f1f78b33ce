// SPDX-License-Identifier: Apache-2.0
// Reads weights from safetensors files: one model.safetensors, or shards named by an index.
//
// The file is untrusted: header length, names, shapes, offsets and overlaps are checked before a
// byte of a tensor is looked at, so a file cut off or edited anywhere gives a Status. Files are
// mapped, not read; a view is valid while its WeightStore lives.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace palimpsest {

enum class TensorType : uint8_t { kFloat32, kBfloat16, kFloat16, kOther };

// One tensor, row-major, where it lies in the mapped file.
struct TensorView {
  TensorType type = TensorType::kOther;
  std::vector<int64_t> shape;
  absl::Span<const uint8_t> bytes;

  int64_t elements() const;
};

// Parses one safetensors image. Views point into `file`. InvalidArgument says what is wrong.
absl::StatusOr<std::map<std::string, TensorView, std::less<>>> ParseSafetensors(
    absl::Span<const uint8_t> file);

// The header's free-form metadata, empty where there is none. InvalidArgument as above, and for a
// value that is not text.
absl::StatusOr<std::map<std::string, std::string>> ParseSafetensorsMetadata(
    absl::Span<const uint8_t> file);

// The names of the files in a folder that hold its weights, sorted: model.safetensors, or else the
// shards that model.safetensors.index.json names. Other safetensors files are something else.
// Errors as WeightStore::Open.
absl::StatusOr<std::vector<std::string>> WeightFiles(const std::string& folder);

// Converts all elements to float. REQUIRES: out.size() == tensor.elements(), type not kOther.
void CopyAsFloat(const TensorView& tensor, absl::Span<float> out);

// The weights of a folder. Neither copied nor moved: views point into its mappings.
class WeightStore {
 public:
  // Opens model.safetensors, or else what model.safetensors.index.json names. NotFound when the
  // folder has neither; InvalidArgument when a file is not well-formed.
  static absl::StatusOr<std::unique_ptr<WeightStore>> Open(const std::string& folder);
  ~WeightStore();
  WeightStore(const WeightStore&) = delete;
  WeightStore& operator=(const WeightStore&) = delete;

  bool Has(absl::string_view name) const { return tensors_.find(name) != tensors_.end(); }

  // A float tensor where it lies. NotFound when there is none of that name, InvalidArgument when
  // its shape is not `shape`, Unimplemented for an element type that is not F32, BF16 or F16.
  absl::StatusOr<TensorView> Find(absl::string_view name, absl::Span<const int64_t> shape) const;

  // The same, as a vector.
  absl::StatusOr<std::vector<float>> ReadFloats(absl::string_view name,
                                                absl::Span<const int64_t> shape) const;

 private:
  struct Mapping {
    void* data;
    size_t bytes;
  };

  WeightStore() = default;
  absl::Status MapFile(const std::string& path);

  std::vector<Mapping> mappings_;
  std::map<std::string, TensorView, std::less<>> tensors_;
};

}  // namespace palimpsest
