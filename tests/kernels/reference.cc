// SPDX-License-Identifier: Apache-2.0
#include "tests/kernels/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace palimpsest::reference {
namespace {

double Dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t c = 0; c < a.size(); ++c) sum += a[c] * b[c];
  return sum;
}

double SquaredDistance(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t c = 0; c < a.size(); ++c) sum += (a[c] - b[c]) * (a[c] - b[c]);
  return sum;
}

Vector Softmax(Vector x) {
  const double max = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double& value : x) sum += value = std::exp(value - max);
  for (double& value : x) value /= sum;
  return x;
}

}  // namespace

Vector Attention(const Vector& q, const std::vector<Token>& tokens, double scale) {
  Vector logits;
  for (const Token& token : tokens) logits.push_back(scale * Dot(q, token.k));
  const Vector weights = Softmax(logits);
  Vector out(tokens[0].v.size(), 0.0);
  for (size_t t = 0; t < tokens.size(); ++t) {
    for (size_t c = 0; c < out.size(); ++c) out[c] += weights[t] * tokens[t].v[c];
  }
  return out;
}

double Sparsity(const std::vector<std::vector<Vector>>& queries,
                std::vector<std::vector<Token>> heads, double scale) {
  Vector mean(heads[0].size(), 0.0);
  for (size_t h = 0; h < heads.size(); ++h) {
    std::sort(heads[h].begin(), heads[h].end(),
              [](const Token& a, const Token& b) { return a.position < b.position; });
    Vector logits;
    for (const Token& token : heads[h]) {
      double largest = -std::numeric_limits<double>::infinity();
      for (const Vector& q : queries[h]) largest = std::max(largest, scale * Dot(q, token.k));
      logits.push_back(largest);
    }
    const Vector p = Softmax(logits);
    for (size_t j = 0; j < p.size(); ++j) mean[j] += p[j] / static_cast<double>(heads.size());
  }
  const double limit = 0.01 * *std::max_element(mean.begin(), mean.end());
  double small = 0;
  for (const double p : mean) small += p < limit;
  return small / static_cast<double>(mean.size());
}

std::vector<uint32_t> KMeansMedoids(const std::vector<Vector>& keys, uint32_t keep) {
  const size_t n = keys.size();
  std::vector<Vector> centroids;
  for (uint32_t j = 0; j < keep; ++j) centroids.push_back(keys[j * n / keep]);
  for (int step = 0; step < 10; ++step) {
    std::vector<Vector> sums(keep, Vector(keys[0].size(), 0.0));
    std::vector<int> members(keep, 0);
    for (const Vector& key : keys) {
      size_t nearest = 0;
      for (size_t j = 1; j < keep; ++j) {
        if (SquaredDistance(key, centroids[j]) < SquaredDistance(key, centroids[nearest])) {
          nearest = j;
        }
      }
      ++members[nearest];
      for (size_t c = 0; c < key.size(); ++c) sums[nearest][c] += key[c];
    }
    for (size_t j = 0; j < keep; ++j) {
      for (size_t c = 0; c < sums[j].size() && members[j] > 0; ++c) {
        centroids[j][c] = sums[j][c] / members[j];
      }
    }
  }
  std::set<uint32_t> chosen;
  for (const Vector& centroid : centroids) {
    uint32_t nearest = 0;
    double best = std::numeric_limits<double>::infinity();
    for (uint32_t i = 0; i < n; ++i) {
      if (chosen.count(i) > 0 || SquaredDistance(keys[i], centroid) >= best) continue;
      nearest = i;
      best = SquaredDistance(keys[i], centroid);
    }
    chosen.insert(nearest);
  }
  return {chosen.begin(), chosen.end()};
}

}  // namespace palimpsest::reference
