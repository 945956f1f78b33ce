// SPDX-License-Identifier: Apache-2.0
// Runs texts through a model: for each one chain with the full cache and, beside it in the same
// steps, one for every point that is wanted, all read to the text's end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/cli/grid/points.h"
#include "services/cli/likelihood/results.h"
#include "services/cli/likelihood/texts.h"
#include "services/decode/device/device.h"

namespace palimpsest::cli {

struct LikelihoodOptions {
  ModelSource source;
  DeviceChoice device;
  uint32_t prompt_tokens = 32;  // read at once and never evicted
  uint32_t every = 1;           // positions compared: its multiples; at most kGroupTokens
  uint32_t batch = 64;          // chains at once, the full caches' included; at least 2
  uint64_t pool_bytes = 0;      // 0: what the batch can want
  int threads = 1;
  bool rotate_keys = false;  // keys are stored after a Hadamard transform
  std::shared_ptr<const QueryCodebook> codebook = nullptr;
  // The model's calibration, for thinkv; both empty: one class of thoughts.
  std::vector<uint32_t> sparsity_layers = {};
  std::vector<float> theta = {};
  Log* log = nullptr;
};

// A text, and the points at which it is wanted.
struct LikelihoodJob {
  const LikelihoodText* text = nullptr;
  std::vector<const GridPoint*> points;
};

// What is found of a point, but for its identity.
using PointHandler = std::function<absl::Status(const LikelihoodJob& job, const GridPoint& point,
                                                PointResult found)>;
// Called after each step with the rows of logits compared so far. An error ends the run with it.
using StepHandler = std::function<absl::Status(uint64_t rows)>;

// The point's policy with the budget that it has for this text. OutOfRange where even the least
// budget holds more bytes than it should.
absl::StatusOr<PolicySpec> ResolvePoint(const LikelihoodOptions& options, const GridPoint& point,
                                        const LikelihoodText& text);

// Reads every job, whose points can be resolved. What has been handed over before an error stays
// valid. InvalidArgument names the flag at fault, ResourceExhausted says that the pool is too
// small, DataLoss that a logit is not finite.
absl::Status CompareCaches(const LikelihoodOptions& options, const std::vector<LikelihoodJob>& jobs,
                           const PointHandler& on_point, const StepHandler& on_step);

// Rows that on_step will have counted at the end, those of the full cache included.
uint64_t RowsToCompare(const LikelihoodOptions& options, const std::vector<LikelihoodJob>& jobs);

}  // namespace palimpsest::cli
