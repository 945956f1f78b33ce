// SPDX-License-Identifier: Apache-2.0
// How sure a share of right answers is, or a mean.
#pragma once

#include <vector>

namespace palimpsest::cli {

struct Interval {
  double low = 0;
  double high = 1;
};

// Wilson's 95 % interval of `share` of `count` independent trials; [0, 1] where there are none.
Interval WilsonInterval(double share, double count);

// Student's 95 % interval of the mean of independent values; of fewer than two nothing is known,
// and it reaches from -infinity to infinity.
Interval MeanInterval(const std::vector<double>& values);

// How many independent trials the answers are worth when every problem was asked several times:
// answers to one problem resemble each other. `shares` are the problems' shares of right answers.
// Between the number of problems and `answers`.
double EffectiveTrials(const std::vector<double>& shares, double answers);

}  // namespace palimpsest::cli
