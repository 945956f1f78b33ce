// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "services/decode/engine/engine.h"

namespace palimpsest {

// Has the engine take all requests and lead them to their ends, none of which may be an error.
// Afterwards its pool is empty. Tokens and stats by request.
inline void RunToEnd(Engine& engine, std::vector<GenerateRequest> requests,
                     std::map<RequestId, std::vector<int32_t>>& tokens,
                     std::map<RequestId, RequestStats>& stats) {
  for (const Admission& admission :
       engine.Submit(std::move(requests), [&tokens, &stats](const GenerateEvent& event) {
         std::vector<int32_t>& text = tokens[event.request];
         text.insert(text.end(), event.tokens.begin(), event.tokens.end());
         if (event.stats.has_value()) stats[event.request] = *event.stats;
         EXPECT_TRUE(event.error.ok()) << event.error;
       })) {
    ASSERT_TRUE(admission.status.ok()) << admission.status;
  }
  while (true) {
    const absl::StatusOr<bool> worked = engine.Step();
    ASSERT_TRUE(worked.ok()) << worked.status();
    if (!*worked) break;
  }
  EXPECT_EQ(engine.Snapshot().pool.used_bytes, 0u);
}

}  // namespace palimpsest
