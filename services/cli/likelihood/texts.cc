// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/texts.h"

#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/json_lines.h"

namespace palimpsest::cli {
namespace {

std::string Fingerprint(const void* data, size_t bytes) {
  return absl::StrCat(absl::Hex(XXH3_64bits(data, bytes), absl::kZeroPad16));
}

absl::StatusOr<std::vector<std::string>> ListFiles(absl::Span<const std::string> paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!std::filesystem::is_directory(path, error)) {
      files.push_back(path);
      continue;
    }
    std::vector<std::string> inside;
    for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
      if (entry.path().extension() == ".txt") inside.push_back(entry.path().string());
    }
    if (inside.empty()) {
      return absl::NotFoundError(absl::StrCat("--texts: ", Escaped(path), " has no .txt file"));
    }
    std::sort(inside.begin(), inside.end());
    files.insert(files.end(), inside.begin(), inside.end());
  }
  return files;
}

}  // namespace

absl::StatusOr<std::vector<LikelihoodText>> ReadTexts(absl::Span<const std::string> paths,
                                                      const Tokenizer& tokenizer,
                                                      uint32_t tokens_min, uint32_t tokens_max) {
  KV_ASSIGN_OR_RETURN(const std::vector<std::string> files, ListFiles(paths));
  std::vector<LikelihoodText> texts;
  std::set<std::string> names;
  for (const std::string& path : files) {
    const auto wrong = [&](auto&&... parts) {
      return absl::InvalidArgumentError(absl::StrCat("--texts: ", Escaped(path), ": ", parts...));
    };
    LikelihoodText text;
    text.name = std::filesystem::path(path).stem().string();
    if (!names.insert(text.name).second) return wrong("another file has the same name");
    KV_ASSIGN_OR_RETURN(const std::string bytes, ReadTextFile("--texts", path));
    absl::StatusOr<std::vector<int32_t>> tokens = tokenizer.Encode(bytes, /*add_special=*/false);
    if (!tokens.ok()) return wrong(tokens.status().message());
    text.tokens = *std::move(tokens);
    if (text.tokens.size() < tokens_min) {
      return wrong(text.tokens.size(), " tokens; at least ", tokens_min, " are needed");
    }
    text.tokens.resize(std::min<size_t>(text.tokens.size(), tokens_max));
    text.fingerprint = Fingerprint(text.tokens.data(), text.tokens.size() * sizeof(int32_t));
    texts.push_back(std::move(text));
  }
  return texts;
}

absl::StatusOr<std::string> FingerprintFile(const std::string& path) {
  KV_ASSIGN_OR_RETURN(const std::string bytes, ReadTextFile(path));
  return Fingerprint(bytes.data(), bytes.size());
}

}  // namespace palimpsest::cli
