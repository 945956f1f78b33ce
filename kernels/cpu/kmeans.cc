// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/kmeans.h"

#include <algorithm>
#include <limits>

#include "common/base/check.h"
#include "kernels/cpu/simd.h"

namespace palimpsest {
namespace {

constexpr int kLloydSteps = 10;
constexpr uint32_t kNone = ~uint32_t{0};

// Index of the row of `rows` [count][width] nearest to `x`, the lowest of equals, leaving out rows
// whose `skip` is set (null: none). REQUIRES: width is a multiple of 16.
KV_CPU_CLONES
uint32_t Nearest(const float* x, const float* rows, uint32_t count, uint32_t width,
                 const uint8_t* skip) {
  float best = std::numeric_limits<float>::infinity();
  uint32_t nearest = kNone;
  for (uint32_t j = 0; j < count; ++j) {
    if (skip != nullptr && skip[j] != 0) continue;
    simd::F32 sum = {};
    for (uint32_t c = 0; c < width; c += simd::kWidth) {
      const simd::F32 difference =
          simd::Load<simd::F32>(x + c) - simd::Load<simd::F32>(rows + size_t{j} * width + c);
      sum += difference * difference;
    }
    const float distance = simd::Sum(sum);
    // The second clause: a distance that overflows must still yield some row.
    if (distance < best || nearest == kNone) {
      best = distance;
      nearest = j;
    }
  }
  return nearest;
}

void UpdateCentroids(absl::Span<const float> keys, absl::Span<const uint32_t> cluster_of,
                     uint32_t width, std::vector<float>* centroids) {
  const size_t count = centroids->size() / width;
  std::vector<uint32_t> members(count, 0);
  std::vector<float> sums(centroids->size(), 0.0f);
  for (size_t i = 0; i < cluster_of.size(); ++i) {
    ++members[cluster_of[i]];
    float* sum = &sums[size_t{cluster_of[i]} * width];
    for (uint32_t c = 0; c < width; ++c) sum[c] += keys[i * width + c];
  }
  for (size_t j = 0; j < count; ++j) {
    if (members[j] == 0) continue;
    for (uint32_t c = 0; c < width; ++c) {
      (*centroids)[j * width + c] = sums[j * width + c] / static_cast<float>(members[j]);
    }
  }
}

}  // namespace

std::vector<uint32_t> KMeansMedoids(absl::Span<const float> keys, uint32_t tokens, uint32_t width,
                                    uint32_t keep) {
  KV_CHECK(keep > 0 && keep <= tokens && width % simd::kWidth == 0);
  KV_CHECK(keys.size() == size_t{tokens} * width);
  std::vector<float> centroids(size_t{keep} * width);
  for (uint32_t j = 0; j < keep; ++j) {
    const size_t token = uint64_t{j} * tokens / keep;
    std::copy_n(keys.begin() + token * width, width, centroids.begin() + size_t{j} * width);
  }
  std::vector<uint32_t> cluster_of(tokens, kNone);
  for (int step = 0; step < kLloydSteps; ++step) {
    bool moved = false;
    for (uint32_t i = 0; i < tokens; ++i) {
      const uint32_t j = Nearest(&keys[size_t{i} * width], centroids.data(), keep, width, nullptr);
      moved |= j != cluster_of[i];
      cluster_of[i] = j;
    }
    if (!moved) break;  // a fixed point: the steps left would change nothing
    UpdateCentroids(keys, cluster_of, width, &centroids);
  }
  std::vector<uint8_t> taken(tokens, 0);
  for (uint32_t j = 0; j < keep; ++j) {
    const float* centroid = &centroids[size_t{j} * width];
    taken[Nearest(centroid, keys.data(), tokens, width, taken.data())] = 1;
  }
  std::vector<uint32_t> chosen;
  chosen.reserve(keep);
  for (uint32_t i = 0; i < tokens; ++i) {
    if (taken[i] != 0) chosen.push_back(i);
  }
  return chosen;
}

}  // namespace palimpsest
