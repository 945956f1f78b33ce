// SPDX-License-Identifier: Apache-2.0
// One parallel loop. OpenMP, because the engine's matrix library already keeps an OpenMP team: two
// thread pools on the same cores would spin against each other.
#pragma once

#include <cstdint>

namespace palimpsest {

// Calls body(i) for i in [0, count), each once, on up to `threads` threads; returns when all are
// done. Bodies must write to places of their own, so that results do not depend on `threads`.
template <typename Body>
void ParallelFor(int threads, int64_t count, const Body& body) {
  if (threads <= 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < count; ++i) body(i);
}

}  // namespace palimpsest
