// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/fingerprint.h"

#include <xxhash.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "services/decode/model/safetensors.h"

namespace palimpsest {
namespace {

constexpr uint64_t kSampleBytes = 1 << 20;
constexpr uint64_t kSamples = 64;

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

absl::Status HashFile(const std::filesystem::path& path, XXH3_state_t* state) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return absl::NotFoundError(absl::StrCat(path.string(), ": cannot be read"));
  const uint64_t size = static_cast<uint64_t>(file.tellg());
  XXH3_128bits_update(state, &size, sizeof size);
  std::vector<char> buffer(kSampleBytes);
  const uint64_t samples = std::min(kSamples, (size + kSampleBytes - 1) / kSampleBytes);
  for (uint64_t i = 0; i < samples; ++i) {
    const uint64_t last = size - std::min(size, kSampleBytes);
    const uint64_t offset = samples == 1 ? 0 : last / (samples - 1) * i;
    file.seekg(static_cast<std::streamoff>(offset));
    file.read(buffer.data(), static_cast<std::streamsize>(std::min(size, kSampleBytes)));
    if (file.gcount() <= 0) {
      return absl::UnavailableError(absl::StrCat(path.string(), ": read failed"));
    }
    XXH3_128bits_update(state, buffer.data(), static_cast<size_t>(file.gcount()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> FingerprintModel(const std::string& folder) {
  KV_ASSIGN_OR_RETURN(std::vector<std::string> files, WeightFiles(folder));
  files.insert(files.begin(), "config.json");
  const std::unique_ptr<XXH3_state_t, FreeState> state(XXH3_createState());
  XXH3_128bits_reset(state.get());
  for (const std::string& file : files) {
    KV_RETURN_IF_ERROR(HashFile(std::filesystem::path(folder) / file, state.get()));
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(state.get());
  return absl::StrCat(absl::Hex(hash.high64, absl::kZeroPad16),
                      absl::Hex(hash.low64, absl::kZeroPad16));
}

}  // namespace palimpsest
