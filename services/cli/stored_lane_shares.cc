// SPDX-License-Identifier: Apache-2.0
#include "services/cli/stored_lane_shares.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "services/decode/model/fingerprint.h"
#include "services/decode/model/query_codebook_file.h"

namespace palimpsest::cli {

absl::StatusOr<std::vector<float>> LoadLaneShares(const std::string& path,
                                                  const std::string& folder,
                                                  const ModelConfig& config) {
  const std::string file = path.empty() ? absl::StrCat(folder, "/", kQueryCodebookFileName) : path;
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return std::vector<float>();
  KV_ASSIGN_OR_RETURN(const std::string fingerprint, FingerprintModel(folder));
  KV_ASSIGN_OR_RETURN(QueryCodebookFile loaded, LoadQueryCodebook(file, config, fingerprint));
  return std::move(loaded.codebook.lane_shares);
}

}  // namespace palimpsest::cli
