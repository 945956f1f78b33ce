// SPDX-License-Identifier: Apache-2.0
// Full-cache runs that record the attention sparsity of every layer, a sample of the queries and
// what was written: what a calibration and a query codebook are made of.
// Greedy and in a fixed order, so that the same model and prompts give the same samples.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/policy/calibration.h"
#include "services/cli/calibrate/query_samples.h"
#include "services/decode/device/device.h"
#include "services/decode/pool/page_pool.h"

namespace palimpsest::cli {

struct SampledPrompt {
  std::vector<int32_t> tokens;  // at least one
  uint32_t max_new_tokens = 0;
  // Read instead of what the model would write; empty, or at least max_new_tokens.
  std::vector<int32_t> continuation = {};
};

struct SamplerOptions {
  uint32_t first_step = 64;  // generated tokens before the first sample: short chains say little
  uint32_t every = 4;        // generated tokens between samples
  uint32_t batch = 16;       // chains at once; at most the backend's open groups
};

struct SamplerProgress {
  uint32_t prompts_done = 0;
  uint64_t tokens_generated = 0;
  uint64_t samples = 0;  // (chain, step) pairs whose sparsity was measured
};

// Of each prompt, in their order.
struct SampledRuns {
  std::vector<SparsityRun> sparsity;
  std::vector<std::vector<int32_t>> written;  // the tokens that followed the prompt
};

// Called after each step. An error ends the sampling with it.
using SamplerHandler = std::function<absl::Status(const SamplerProgress&)>;

// `queries` is offered every generated token. ResourceExhausted when the pool cannot hold the
// chains, DataLoss when a logit is not finite; what the model or the backend says otherwise.
// REQUIRES: the model may observe every layer.
absl::StatusOr<SampledRuns> SampleRuns(const Device& device, PagePool* pool,
                                       absl::Span<const SampledPrompt> prompts,
                                       const SamplerOptions& options, QuerySamples* queries,
                                       const SamplerHandler& on_step);

// Bytes of a pool that holds any `batch` of these prompts' chains at once.
uint64_t PoolBytesFor(const CacheShape& shape, absl::Span<const SampledPrompt> prompts,
                      uint32_t batch);

}  // namespace palimpsest::cli
