// SPDX-License-Identifier: Apache-2.0
// The picture of everything that is judged: a value with its interval against the bytes held, on a
// logarithmic axis, a line a series. SVG; pure.
#pragma once

#include <string>
#include <vector>

namespace palimpsest::cli {

struct BytesPlot {
  struct Value {
    double value = 0;
    double low = 0, high = 0;  // its interval
  };
  struct Point {
    double bytes_percent = 0;  // above 0
    Value at;
  };
  struct Series {
    std::string name;
    std::string policy;  // has the colour
    bool dashed = false;
    std::vector<Point> points;
  };
  struct Across {  // what does not depend on bytes
    std::string name;
    Value at;
  };

  std::string title, subtitle, value_name;
  bool logarithmic = false;  // the values' axis too; else from 0 to 1, in per cent
  std::vector<Across> across = {};
  std::vector<Series> series = {};
};

// REQUIRES: values above 0 where their axis is logarithmic. Their intervals may reach below.
std::string Draw(BytesPlot plot);

}  // namespace palimpsest::cli
