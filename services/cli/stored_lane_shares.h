// SPDX-License-Identifier: Apache-2.0
// How lanes share a budget, as a model's codebook has it: for who foresees the bytes of chains.
// calibrate/lane_shares.h works them out.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/decode/model/model_config.h"

namespace palimpsest::cli {

// QueryCodebook::lane_shares of the codebook at `path`, or where that is empty of the one in the
// model's `folder`. Empty where there is none: who wants one will say so.
absl::StatusOr<std::vector<float>> LoadLaneShares(const std::string& path,
                                                  const std::string& folder,
                                                  const ModelConfig& config);

}  // namespace palimpsest::cli
