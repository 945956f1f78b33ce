// SPDX-License-Identifier: Apache-2.0
#include "services/cli/assets.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/text.h"

namespace palimpsest::cli {
namespace {

namespace fs = std::filesystem;

constexpr absl::string_view kShippedModel = "lab/reasoner/model";

fs::path FolderOfThisProgram() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  return error ? fs::path(".") : self.parent_path();
}

fs::path FromEnvironment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? fs::path() : fs::path(value);
}

}  // namespace

absl::StatusOr<std::string> FindProgram(absl::string_view name) {
  const fs::path chosen = FromEnvironment("PALIMPSEST_BIN");
  const fs::path folder = chosen.empty() ? FolderOfThisProgram() : chosen;
  const fs::path program = folder / std::string(name);
  if (access(program.c_str(), X_OK) == 0) return program.string();
  return absl::NotFoundError(absl::StrCat(name, ": not found in ", Escaped(folder.string()),
                                          ". Build it (ninja ", name,
                                          "), or set PALIMPSEST_BIN to the folder that holds it"));
}

absl::StatusOr<std::string> FindShipped(absl::string_view path, absl::string_view flag) {
  const fs::path relative{std::string(path)};
  const fs::path start = FolderOfThisProgram();
  std::vector<fs::path> roots = {FromEnvironment("PALIMPSEST_DATA")};
  for (fs::path above = start; above.has_relative_path(); above = above.parent_path()) {
    roots.push_back(above);
  }
  roots.push_back(start / ".." / "share" / "palimpsest");
  roots.push_back(fs::path("."));
  std::error_code error;
  for (const fs::path& root : roots) {
    if (root.empty()) continue;
    const fs::path candidate = root / relative;
    if (fs::exists(candidate, error)) return candidate.lexically_normal().string();
  }
  return absl::NotFoundError(absl::StrCat(path, ": not found above ", Escaped(start.string()),
                                          " or here. Give ", flag,
                                          ", or set PALIMPSEST_DATA to the repository's folder"));
}

absl::StatusOr<std::string> FindModelFolder(const std::string& model) {
  if (model.empty()) return FindShipped(kShippedModel, "--model DIR");
  std::error_code error;
  if (fs::is_regular_file(model + "/config.json", error)) return model;
  return absl::NotFoundError(
      absl::StrCat("--model ", Escaped(model),
                   ": holds no config.json, so it is no Hugging Face folder. Try ", kShippedModel));
}

}  // namespace palimpsest::cli
