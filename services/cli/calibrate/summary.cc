// SPDX-License-Identifier: Apache-2.0
#include "services/cli/calibrate/summary.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "services/cli/render.h"

namespace palimpsest::cli {
namespace {

std::string Hundredths(double value) { return absl::StrFormat("%.2f", value); }

}  // namespace

std::string DescribeLayers(const Calibration& calibration, int columns) {
  Table table{.columns = {{"layer"},
                          {"three modes"},
                          {"valley depth"},
                          {"score"},
                          {"prompts by modes 1/2/3/4+"},
                          {"chosen", false}},
              .rows = {}};
  for (size_t i = 0; i < calibration.layers.size(); ++i) {
    const LayerCalibration& layer = calibration.layers[i];
    const auto& chosen = calibration.sparsity_layers;
    const bool is_chosen = std::find(chosen.begin(), chosen.end(), i) != chosen.end();
    table.rows.push_back({absl::StrCat(i), HumanPercent(100 * layer.three_mode_share),
                          absl::StrFormat("%.3f", layer.valley_depth),
                          absl::StrFormat("%.3f", layer.score),
                          absl::StrJoin(layer.prompts_by_modes, "/"), is_chosen ? "yes" : ""});
  }
  std::string text = ToText(table, columns);
  if (calibration.theta.empty()) {
    return absl::StrCat(text, "\ntheta: none; every thought is one class\n");
  }
  return absl::StrCat(text, absl::StrFormat("\ntheta: E below %.4f, R below %.4f, T above\n",
                                            calibration.theta[0], calibration.theta[1]));
}

std::string DescribeShares(absl::Span<const float> shares, int layers, int columns) {
  if (shares.empty()) return "shares of lanes: none; all keep the same\n";
  const size_t heads = shares.size() / static_cast<size_t>(layers);
  Table table{.columns = {{"layer"}, {"mean share"}, {"of each KV head", false}}, .rows = {}};
  for (size_t layer = 0; layer * heads < shares.size(); ++layer) {
    const auto own = shares.subspan(layer * heads, heads);
    const double sum = std::accumulate(own.begin(), own.end(), 0.0);
    table.rows.push_back({absl::StrCat(layer), Hundredths(sum / static_cast<double>(heads)),
                          absl::StrJoin(own, "  ", [](std::string* out, float share) {
                            absl::StrAppend(out, Hundredths(share));
                          })});
  }
  const auto [least, largest] = std::minmax_element(shares.begin(), shares.end());
  return absl::StrCat(ToText(table, columns), "\nshares of lanes: ", Hundredths(*least), " to ",
                      Hundredths(*largest), " of the mean\n");
}

}  // namespace palimpsest::cli
