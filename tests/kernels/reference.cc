// SPDX-License-Identifier: Apache-2.0
#include "tests/kernels/reference.h"

#include <algorithm>
#include <bit>
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

Vector AttentionWeights(const Vector& q, const std::vector<Token>& tokens, double scale) {
  Vector logits;
  for (const Token& token : tokens) {
    logits.push_back(scale * Dot(q, token.k) + std::log(token.count));
  }
  return Softmax(logits);
}

Vector Attention(const Vector& q, const std::vector<Token>& tokens, double scale) {
  const Vector weights = AttentionWeights(q, tokens, scale);
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

Vector Hadamard(const Vector& x) {
  Vector out(x.size(), 0.0);
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < x.size(); ++j) out[i] += std::popcount(i & j) % 2 == 0 ? x[j] : -x[j];
    out[i] /= std::sqrt(static_cast<double>(x.size()));
  }
  return out;
}

Vector Rope(const Vector& x, const Vector& angles, double factor) {
  const size_t half = x.size() / 2;
  Vector out(x.size());
  for (size_t c = 0; c < half; ++c) {
    out[c] = factor * (x[c] * std::cos(angles[c]) - x[c + half] * std::sin(angles[c]));
    out[c + half] = factor * (x[c + half] * std::cos(angles[c]) + x[c] * std::sin(angles[c]));
  }
  return out;
}

Vector JointScores(const std::vector<std::vector<Vector>>& queries,
                   const std::vector<Token>& tokens, size_t recent, double scale) {
  const size_t n = tokens.size(), candidates = n - recent;
  Vector mean(candidates, 0.0);
  for (const std::vector<Vector>& heads : queries) {
    Vector largest(candidates, -std::numeric_limits<double>::infinity());
    for (size_t i = 0; i < candidates; ++i) {
      for (const Vector& q : heads) largest[i] = std::max(largest[i], scale * Dot(q, tokens[i].k));
    }
    const Vector weights = Softmax(largest);
    for (size_t i = 0; i < candidates; ++i) {
      mean[i] += weights[i] / static_cast<double>(queries.size());
    }
  }
  std::vector<Vector> similarity(n, Vector(n, 0.0));
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      const double norms = (std::sqrt(Dot(tokens[i].k, tokens[i].k)) + 1e-8) *
                           (std::sqrt(Dot(tokens[j].k, tokens[j].k)) + 1e-8);
      if (i != j) similarity[i][j] = Dot(tokens[i].k, tokens[j].k) / norms;
    }
    for (size_t j = n; j-- > 0;) {
      if (similarity[i][j] <= 0.5) continue;
      similarity[i][j] = 0.0;
      break;
    }
  }
  Vector columns(n, 0.0);
  for (size_t j = 0; j < n; ++j) {
    for (size_t i = 0; i < n; ++i) columns[j] += similarity[i][j] / static_cast<double>(n);
  }
  const Vector redundancy = Softmax(columns);
  Vector scores(candidates);
  for (size_t i = 0; i < candidates; ++i) {
    double pooled = 0.0;
    for (size_t j = 0; j < candidates; ++j) {
      if (j + 3 >= i && j <= i + 3) pooled = std::max(pooled, mean[j]);
    }
    scores[i] = 0.1 * pooled - 0.9 * redundancy[i];
  }
  return scores;
}

Vector AnticipatedScores(const std::vector<Vector>& queries, const std::vector<Token>& tokens,
                         double scale) {
  Vector largest(tokens.size(), 0.0);
  for (const Vector& q : queries) {
    const Vector weights = AttentionWeights(q, tokens, scale);
    const Vector output = Attention(q, tokens, scale);
    for (size_t i = 0; i < tokens.size(); ++i) {
      const double moved = weights[i] / std::max(1.0 - weights[i], 1e-3) *
                           std::sqrt(SquaredDistance(tokens[i].v, output));
      largest[i] = std::max(largest[i], moved);
    }
  }
  return largest;
}

}  // namespace palimpsest::reference
