// SPDX-License-Identifier: Apache-2.0
// Which live tokens of a segment an anneal keeps. Policy names one, a kernel carries it out; it
// lives here because neither of them may include the other.
#pragma once

#include <cstdint>

namespace palimpsest {

// Ties go to the earlier position.
enum class Selector : uint8_t {
  kKMeansMedoids = 0,  // ThinKV section 4.2: real tokens nearest to k-means centroids, per layer
  kMostRecent = 1,     // the newest `keep`
};

}  // namespace palimpsest
