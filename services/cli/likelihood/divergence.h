// SPDX-License-Identifier: Apache-2.0
// How far one next-token distribution is from another, from their logits. Pure; in double, since a
// good cache changes a distribution by millionths.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace palimpsest::cli {

// A distribution that others are compared with: a row of logits, read once.
class ReferenceRow {
 public:
  // `logits` must outlive this until the next Read. False when one is NaN or infinite.
  bool Read(absl::Span<const float> logits);

  absl::Span<const float> logits() const { return logits_; }
  absl::Span<const double> weights() const { return weights_; }  // e^(logit - largest)
  double weight_sum() const { return weight_sum_; }
  double log_sum() const { return log_sum_; }  // of e^logit
  size_t likeliest() const { return likeliest_; }

 private:
  absl::Span<const float> logits_;
  std::vector<double> weights_;
  double weight_sum_ = 0;
  double log_sum_ = 0;
  size_t likeliest_ = 0;
};

struct Divergence {
  bool finite = false;       // of what is below nothing counts otherwise
  double kl = 0;             // KL(reference || row) in nats; exactly 0 for equal logits
  bool agrees = false;       // the same likeliest token; ties go to the lower id
  double surprise = 0;       // -log of the row's probability of `target`, in nats
  double full_surprise = 0;  // the reference's
};

// REQUIRES: the row is as long as the reference, target is in it.
Divergence Compare(const ReferenceRow& reference, absl::Span<const float> logits, size_t target);

// What a run of positions comes to.
struct DivergenceSummary {
  uint32_t positions = 0;
  double kl_mean = 0;
  double kl_mean_last_half = 0;
  double kl_p95 = 0;         // 95 % of the positions are no worse
  double agreement = 0;      // share of positions, 0 to 1
  double surprise_mean = 0;  // its exponential is the perplexity
  double full_surprise_mean = 0;
};

// In order of position. REQUIRES: at least one, all finite.
DivergenceSummary Summarise(absl::Span<const Divergence> positions);

}  // namespace palimpsest::cli
