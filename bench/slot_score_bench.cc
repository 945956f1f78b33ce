// SPDX-License-Identifier: Apache-2.0
// What it costs to know which tokens matter: a layer's Attend alone, with the attention received
// added to every slot's score (H2O), with LongFlow's eviction of a token a step, and in a backend
// that could but for sequences that want neither. Verifies each against a plain kernel first;
// prints one JSON line a case; exit code 1 when a case is wrong or fails.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/attend_case.h"
#include "bench/flags.h"
#include "bench/gpu/ceilings.h"
#include "bench/gpu/device_line.h"
#include "bench/gpu/graph_timer.h"
#include "bench/gpu/on_device.h"
#include "common/base/status_macros.h"

namespace palimpsest::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kScoreError = 0.02;  // probabilities are bf16 on their way
constexpr int kRounds = 3;

struct Options {
  std::vector<uint32_t> live = {1024, 4096};
  std::vector<std::string> formats = {"bf16", "nvfp4"};
  uint32_t batch = 64;
  int layers = 8;  // what a step does once, after the last, counts for so many
  double seconds = 0.03;
};

struct Mode {
  const char* name;
  bool slot_scores;
  SlotScore slot_score;
};
constexpr Mode kModes[] = {{"attend", false, SlotScore::kNone},
                           {"unused", true, SlotScore::kNone},
                           {"h2o", true, SlotScore::kAttentionReceived},
                           {"longflow", true, SlotScore::kValueNorm}};

absl::StatusOr<double> LayerSeconds(AttendBed& bed, double budget_s) {
  KV_ASSIGN_OR_RETURN(const double graph_s,
                      MedianGraphSeconds(bed.stream(), budget_s, [&]() -> absl::Status {
                        for (int layer = 0; layer < bed.layers(); ++layer) {
                          KV_RETURN_IF_ERROR(bed.Attend(layer));
                        }
                        return absl::OkStatus();
                      }));
  return graph_s / bed.layers();
}

absl::StatusOr<std::unique_ptr<AttendBed>> MakeBed(AttendCase spec, const Mode& mode, Json* line) {
  spec.slot_scores = mode.slot_scores;
  spec.slot_score = mode.slot_score;
  KV_ASSIGN_OR_RETURN(std::unique_ptr<AttendBed> bed, AttendBed::Make(spec));
  if (mode.slot_score == SlotScore::kNone) return bed;
  KV_ASSIGN_OR_RETURN(const double error, bed->VerifyScores(bed->layers() - 1));
  (*line)[absl::StrCat(mode.name, "_error")] = Rounded(error, 2);
  if (!(error <= kScoreError)) return absl::DataLossError(absl::StrCat(mode.name, " is wrong"));
  return bed;
}

// All modes side by side, measured in turn.
absl::Status Measure(const AttendCase& spec, double budget_s, Json* line) {
  std::vector<std::unique_ptr<AttendBed>> beds;
  for (const Mode& mode : kModes) {
    KV_ASSIGN_OR_RETURN(beds.emplace_back(), MakeBed(spec, mode, line));
  }
  std::vector<double> best(beds.size(), 1e9);
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < beds.size(); ++i) {
      KV_ASSIGN_OR_RETURN(const double seconds, LayerSeconds(*beds[i], budget_s));
      best[i] = std::min(best[i], seconds);
    }
  }
  for (size_t i = 0; i < beds.size(); ++i) {
    (*line)[absl::StrCat(kModes[i].name, "_us")] = Rounded(best[i] * 1e6, 4);
  }
  for (size_t i = 1; i < beds.size(); ++i) {
    (*line)[absl::StrCat(kModes[i].name, "_costs")] = Rounded(best[i] / best[0] - 1, 2);
  }
  return absl::OkStatus();
}

absl::StatusOr<int> Run(const Options& options) {
  KV_ASSIGN_OR_RETURN(const cuda::Stream stream, cuda::NewStream());
  KV_ASSIGN_OR_RETURN(const Ceilings ceilings, MeasureCeilings(stream.get()));
  KV_ASSIGN_OR_RETURN(const Json device, DeviceLine("slot_score", ceilings));
  std::printf("%s\n", device.dump().c_str());
  int failed = 0;
  for (const uint32_t live : options.live) {
    for (const std::string& format : options.formats) {
      AttendCase spec = {.query_heads = 32,
                         .kv_heads = 8,
                         .head_dim = 128,
                         .batch = options.batch,
                         .live = live,
                         .layers = options.layers,
                         .memory_bytes = uint64_t{16} << 30};
      KV_ASSIGN_OR_RETURN(spec.formats, ParseClassFormats(format));
      Json line = {{"bench", "slot_score"}, {"format", format}, {"shape", "32/8/128"},
                   {"batch", spec.batch},   {"live", live},     {"layers", spec.layers}};
      const absl::Status status = Measure(spec, options.seconds, &line);
      if (!status.ok()) {
        line["failed"] = status.message();
        ++failed;
      }
      std::printf("%s\n", line.dump().c_str());
      std::fflush(stdout);
    }
  }
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace palimpsest::bench

int main(int argc, char** argv) {
  namespace flags = palimpsest::bench::flags;
  palimpsest::bench::Options options;
  CLI::App app("What scores of slots cost beside paged decode attention on the GPU.");
  app.add_option("--live", options.live, "live tokens a sequence; may be repeated")
      ->check(flags::Groups(32, 1 << 20))
      ->capture_default_str();
  app.add_option("--format", options.formats, "as the worker's --formats; may be repeated")
      ->check(flags::Formats())
      ->capture_default_str();
  app.add_option("--batch", options.batch, "sequences")
      ->check(flags::KernelBatch())
      ->capture_default_str();
  app.add_option("--layers", options.layers, "layers of a step")
      ->check(flags::Whole(1, 128))
      ->capture_default_str();
  app.add_option("--seconds", options.seconds, "timed work a mode and round")
      ->check(flags::Seconds())
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return palimpsest::bench::OnDevice("slot_score_bench",
                                     [&] { return palimpsest::bench::Run(options); });
}
