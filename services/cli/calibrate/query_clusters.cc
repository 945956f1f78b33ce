// SPDX-License-Identifier: Apache-2.0
// Nearly all time goes into NearestCentroids, a matrix product with a running minimum: four points
// against 32 centroids at a time, which stay in registers; the centroids are kept transposed, so
// that a vector holds one channel of 16 of them.
#include "services/cli/calibrate/query_clusters.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"
#include "kernels/cpu/codec.h"
#include "kernels/cpu/simd.h"
#include "services/decode/model/counter_random.h"

namespace palimpsest::cli {
namespace {

using simd::F32;
using simd::I32;

constexpr uint64_t kSeed = 2;
constexpr int kPointsAtOnce = 4;
constexpr uint32_t kNone = ~uint32_t{0};

struct Points {
  const float* data;  // [count][width]
  uint32_t count;
  int width;
  std::vector<float> half_squares = {};  // [count] half the squared norm

  const float* at(uint32_t point) const { return data + static_cast<size_t>(point) * width; }
};

struct Centroids {
  uint32_t count;              // a multiple of 16
  std::vector<float> columns;  // [width][count]
  std::vector<float> half_squares;
};

// For each point its nearest centroid and half the squared distance to it.
struct Nearest {
  std::vector<uint32_t> centroid;
  std::vector<float> distance;
};

float HalfSquare(const float* x, int width) {
  return std::inner_product(x, x + width, x, 0.0f) / 2;
}

// The best of sixteen lanes; of equal ones that of the lowest centroid.
KV_ALWAYS_INLINE void Reduce(const F32& value, const I32& index, float* best, uint32_t* centroid) {
  *best = value[0];
  int32_t at = index[0];
  for (int lane = 1; lane < simd::kWidth; ++lane) {
    const bool is_better = value[lane] < *best || (value[lane] == *best && index[lane] < at);
    *best = is_better ? value[lane] : *best;
    at = is_better ? index[lane] : at;
  }
  *centroid = static_cast<uint32_t>(at);
}

// The least |c|^2 / 2 - p.c is half the squared distance less |p|^2 / 2, which is added at the end.
KV_CPU_CLONES void NearestCentroids(const Points& points, const Centroids& centroids,
                                    Nearest* out) {
  constexpr I32 kLanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  constexpr float kFar = std::numeric_limits<float>::max();
  for (uint32_t first = 0; first < points.count; first += kPointsAtOnce) {
    const float* row[kPointsAtOnce];
    F32 best[kPointsAtOnce];
    I32 index[kPointsAtOnce];
    for (uint32_t i = 0; i < kPointsAtOnce; ++i) {
      row[i] = points.at(std::min(first + i, points.count - 1));
      best[i] = F32{} + kFar;
      index[i] = I32{};
    }
    for (uint32_t c = 0; c < centroids.count; c += 2 * simd::kWidth) {
      // An odd block of sixteen is done twice: of equal values the first stays.
      const uint32_t second = c + simd::kWidth < centroids.count ? c + simd::kWidth : c;
      F32 low[kPointsAtOnce], high[kPointsAtOnce];
      for (int i = 0; i < kPointsAtOnce; ++i) {
        low[i] = simd::Load<F32>(&centroids.half_squares[c]);
        high[i] = simd::Load<F32>(&centroids.half_squares[second]);
      }
      const float* column = centroids.columns.data();
      for (int channel = 0; channel < points.width; ++channel, column += centroids.count) {
        const F32 a = simd::Load<F32>(column + c);
        const F32 b = simd::Load<F32>(column + second);
        for (int i = 0; i < kPointsAtOnce; ++i) {
          low[i] -= row[i][channel] * a;
          high[i] -= row[i][channel] * b;
        }
      }
      for (int i = 0; i < kPointsAtOnce; ++i) {
        index[i] = low[i] < best[i] ? kLanes + static_cast<int32_t>(c) : index[i];
        best[i] = low[i] < best[i] ? low[i] : best[i];
        index[i] = high[i] < best[i] ? kLanes + static_cast<int32_t>(second) : index[i];
        best[i] = high[i] < best[i] ? high[i] : best[i];
      }
    }
    for (uint32_t i = 0; i < kPointsAtOnce && first + i < points.count; ++i) {
      Reduce(best[i], index[i], &out->distance[first + i], &out->centroid[first + i]);
      out->distance[first + i] += points.half_squares[first + i];
    }
  }
}

// distance[p] becomes the squared distance to `to`, where that is smaller.
KV_CPU_CLONES void LowerDistances(const Points& points, const float* to, float* distance) {
  for (uint32_t p = 0; p < points.count; ++p) {
    const float* from = points.at(p);
    F32 sum = {};
    for (int c = 0; c < points.width; c += simd::kWidth) {
      const F32 apart = simd::Load<F32>(from + c) - simd::Load<F32>(to + c);
      sum += apart * apart;
    }
    distance[p] = std::min(distance[p], simd::Sum(sum));
  }
}

void SetCentroid(const float* from, uint32_t index, int width, Centroids* centroids) {
  for (int c = 0; c < width; ++c) {
    centroids->columns[static_cast<size_t>(c) * centroids->count + index] = from[c];
  }
  centroids->half_squares[index] = HalfSquare(from, width);
}

Centroids StartPlusPlus(const Points& points, uint32_t clusters) {
  Centroids centroids{.count = clusters,
                      .columns = std::vector<float>(size_t{clusters} * points.width),
                      .half_squares = std::vector<float>(clusters)};
  std::vector<float> distance(points.count, std::numeric_limits<float>::max());
  uint32_t chosen = points.count / 2;
  for (uint32_t i = 0; i < clusters; ++i) {
    SetCentroid(points.at(chosen), i, points.width, &centroids);
    LowerDistances(points, points.at(chosen), distance.data());
    const double total = std::accumulate(distance.begin(), distance.end(), 0.0);
    double left = CounterUniform(kSeed, i) * total;
    // Rounding, or a total of zero (fewer different points than centroids), may lead to the end.
    for (chosen = 0; chosen + 1 < points.count; ++chosen) {
      left -= distance[chosen];
      if (left < 0) break;
    }
  }
  return centroids;
}

// Each centroid becomes the mean of its points. One without points takes the place of the point
// that is farthest from its own.
void MoveCentroids(const Points& points, const Nearest& nearest, Centroids* centroids) {
  const auto width = static_cast<size_t>(points.width);
  std::vector<uint32_t> sizes(centroids->count);
  std::vector<float> sums(centroids->count * width);
  for (uint32_t p = 0; p < points.count; ++p) {
    const uint32_t c = nearest.centroid[p];
    ++sizes[c];
    const float* from = points.at(p);
    for (size_t i = 0; i < width; ++i) sums[c * width + i] += from[i];
  }
  std::vector<float> distance = nearest.distance;
  for (uint32_t c = 0; c < centroids->count; ++c) {
    float* mean = &sums[c * width];
    for (size_t i = 0; i < width && sizes[c] > 0; ++i) mean[i] /= static_cast<float>(sizes[c]);
    if (sizes[c] > 0) {
      SetCentroid(mean, c, points.width, centroids);
    } else {
      const auto farthest = std::max_element(distance.begin(), distance.end());
      *farthest = -1.0f;
      SetCentroid(points.at(static_cast<uint32_t>(farthest - distance.begin())), c, points.width,
                  centroids);
    }
  }
}

// Of each cluster its point nearest to the centroid; of an empty one any point that is left.
std::vector<uint32_t> Medoids(const Nearest& nearest, uint32_t clusters) {
  std::vector<uint32_t> medoids(clusters, kNone);
  for (uint32_t p = 0; p < nearest.centroid.size(); ++p) {
    uint32_t& medoid = medoids[nearest.centroid[p]];
    if (medoid == kNone || nearest.distance[p] < nearest.distance[medoid]) medoid = p;
  }
  std::vector<bool> is_taken(nearest.centroid.size());
  for (const uint32_t medoid : medoids) {
    if (medoid != kNone) is_taken[medoid] = true;
  }
  uint32_t next = 0;
  for (uint32_t& medoid : medoids) {
    if (medoid != kNone) continue;
    while (is_taken[next]) ++next;
    medoid = next++;
  }
  return medoids;
}

}  // namespace

std::vector<uint32_t> ChooseTypical(absl::Span<const float> data, int width, uint32_t clusters) {
  KV_CHECK(width > 0 && width % simd::kWidth == 0 && data.size() % width == 0);
  Points points{data.data(), static_cast<uint32_t>(data.size() / width), width};
  KV_CHECK(clusters > 0 && clusters % simd::kWidth == 0 && clusters <= points.count);
  for (uint32_t p = 0; p < points.count; ++p) {
    points.half_squares.push_back(HalfSquare(points.at(p), width));
  }
  Centroids centroids = StartPlusPlus(points, clusters);
  Nearest nearest{std::vector<uint32_t>(points.count), std::vector<float>(points.count)};
  std::vector<uint32_t> before;
  for (int step = 0; step <= kLloydSteps; ++step) {
    NearestCentroids(points, centroids, &nearest);
    if (step == kLloydSteps || nearest.centroid == before) break;
    before = nearest.centroid;
    MoveCentroids(points, nearest, &centroids);
  }
  std::vector<uint32_t> sizes(clusters);
  for (const uint32_t centroid : nearest.centroid) ++sizes[centroid];
  const std::vector<uint32_t> medoids = Medoids(nearest, clusters);
  std::vector<uint32_t> order(clusters);
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return sizes[a] > sizes[b]; });
  std::vector<uint32_t> chosen;
  for (const uint32_t cluster : order) chosen.push_back(medoids[cluster]);
  return chosen;
}

absl::StatusOr<QueryCodebook> ClusterQueries(const QuerySamples& samples, const ModelConfig& config,
                                             uint32_t queries, TaskTeam* team,
                                             const ClusterHandler& on_progress) {
  if (samples.count() < queries) {
    return absl::InvalidArgumentError(
        absl::StrCat("codebook_queries: ", queries,
                     " of each head want as many tokens, the runs "
                     "gave ",
                     samples.count(), "; take more or longer problems, or fewer queries"));
  }
  const auto width = static_cast<size_t>(config.head_dim);
  const int heads = config.layers * config.query_heads;
  QueryCodebook book{.layers = config.layers,
                     .query_heads = config.query_heads,
                     .head_dim = config.head_dim,
                     .queries = queries,
                     .data = std::vector<uint16_t>(heads * queries * width),
                     .inverse_frequencies = {}};
  const auto cluster = [&](int head) {
    const absl::Span<const uint16_t> from =
        samples.of(head / config.query_heads, head % config.query_heads);
    std::vector<float> points(from.size());
    std::transform(from.begin(), from.end(), points.begin(), Bf16ToFloat);
    uint16_t* to = &book.data[static_cast<size_t>(head) * queries * width];
    for (const uint32_t point : ChooseTypical(points, config.head_dim, queries)) {
      to = std::copy_n(&from[point * width], width, to);
    }
  };
  // Heads are shared out in rounds, between which the caller is heard.
  const int round = 4 * team->threads();
  for (int first = 0; first < heads; first += round) {
    KV_RETURN_IF_ERROR(on_progress(static_cast<size_t>(first)));
    team->Run(std::min(round, heads - first), [&](int task, int) { cluster(first + task); });
  }
  return book;
}

}  // namespace palimpsest::cli
