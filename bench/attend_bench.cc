// SPDX-License-Identifier: Apache-2.0
// How quickly the CUDA backend's Attend reads pages, next to what the device's memory can do in the
// same run. Verifies every case against a plain kernel first; prints one JSON line a case, a line
// about the device before them and a summary after; exit code 1 when a case is wrong or fails.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
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

constexpr double kLargestError = 1.0 / 128;  // kBf16KernelError of tests/kernels/tolerances.h
constexpr double kRelativeError = 1.0 / 64;  // a page lost of 64 shows as 1/8 and more

struct Options {
  std::string cases_file = "bench/attend_cases.txt";
  std::vector<std::string> cases;
  std::vector<std::string> formats;  // empty: FormatsOf's
  std::string holes = "both";
  bool quick = false;
  bool uneven = false;
  double seconds = 0.03;
  double memory_gib = 60;
};

struct Point {
  std::string shape;
  AttendCase spec;
  bool quick = false;  // of the grid's quick cases
};

// int4 lies as nvfp4 does and is read as quickly, so a few cases tell.
std::vector<std::string> FormatsOf(const Point& point, const Options& options) {
  if (!options.formats.empty()) return options.formats;
  std::vector<std::string> formats = {"bf16", "fp8", "nvfp4", "ternary", "nvfp4/ternary"};
  if (!options.uneven) formats.emplace_back("R4E4T2");
  if (point.quick) formats.emplace_back("int4");
  return formats;
}

absl::StatusOr<Point> ParsePoint(absl::string_view shape, absl::string_view batch,
                                 absl::string_view live) {
  const std::vector<absl::string_view> parts = absl::StrSplit(shape, '/');
  Point point{.shape = std::string(shape), .spec = {}};
  AttendCase& spec = point.spec;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &spec.query_heads) ||
      !absl::SimpleAtoi(parts[1], &spec.kv_heads) || !absl::SimpleAtoi(parts[2], &spec.head_dim) ||
      !absl::SimpleAtoi(batch, &spec.batch) || !absl::SimpleAtoi(live, &spec.live)) {
    return absl::InvalidArgumentError(absl::StrCat("not a case: ", shape, " ", batch, " ", live,
                                                   "; wanted is QUERY_HEADS/KV_HEADS/HEAD_DIM,"
                                                   " batch and live tokens, as 32/8/128 64 1024"));
  }
  if (spec.batch < 1 || spec.batch > 512 || spec.live < 32 || spec.live % kGroupTokens != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("case ", shape, " ", batch, " ", live,
                     ": batch is 1 to 512, live a multiple of 16 from 32 on"));
  }
  return point;
}

absl::StatusOr<std::vector<Point>> ReadPoints(const Options& options) {
  std::vector<Point> points;
  for (const std::string& text : options.cases) {
    const std::vector<absl::string_view> words = absl::StrSplit(text, ':');
    if (words.size() != 3)
      return absl::InvalidArgumentError(
          absl::StrCat("--case '", text, "' is not SHAPE:BATCH:LIVE, as 32/8/128:64:1024"));
    KV_ASSIGN_OR_RETURN(points.emplace_back(), ParsePoint(words[0], words[1], words[2]));
  }
  if (!points.empty()) return points;
  std::ifstream file(options.cases_file);
  if (!file) return absl::NotFoundError(absl::StrCat("--cases: cannot read ", options.cases_file));
  for (std::string line; std::getline(file, line);) {
    line = line.substr(0, line.find('#'));
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    const bool is_quick = words.size() > 3 && words[3] == "quick";
    if (words.size() < 3 || (options.quick && !is_quick)) continue;
    KV_ASSIGN_OR_RETURN(points.emplace_back(), ParsePoint(words[0], words[1], words[2]));
    points.back().quick = is_quick;
  }
  return points;
}

// One case: made, verified, timed. The bed and its memory are gone when it returns.
absl::Status Measure(const AttendCase& spec, double budget_s, const Ceilings& ceilings,
                     Json* line) {
  KV_ASSIGN_OR_RETURN(const auto bed, AttendBed::Make(spec));
  (*line)["layers"] = bed->layers();
  (*line)["bytes"] = bed->bytes();
  if (spec.holes) (*line)["live_bytes"] = bed->live_bytes();
  KV_ASSIGN_OR_RETURN(const AttendError error, bed->Verify(bed->layers() - 1));
  (*line)["error"] = Rounded(error.largest, 2);
  (*line)["relative_error"] = Rounded(error.relative, 2);
  if (!(error.largest <= kLargestError && error.relative <= kRelativeError)) {
    return absl::DataLossError("wrong");
  }
  KV_ASSIGN_OR_RETURN(const double graph_s,
                      MedianGraphSeconds(bed->stream(), budget_s, [&]() -> absl::Status {
                        for (int layer = 0; layer < bed->layers(); ++layer) {
                          KV_RETURN_IF_ERROR(bed->Attend(layer));
                        }
                        return absl::OkStatus();
                      }));
  const double seconds = graph_s / bed->layers();
  const double gbps = static_cast<double>(bed->bytes()) / seconds / 1e9;
  (*line)["us"] = Rounded(seconds * 1e6, 4);
  (*line)["gbps"] = Rounded(gbps, 4);
  (*line)["share_of_copy"] = Rounded(gbps / ceilings.copy_gbps, 3);
  (*line)["share_of_read"] = Rounded(gbps / ceilings.read_gbps, 3);
  (*line)["tokens_per_s"] = Rounded(spec.batch / seconds, 4);
  return absl::OkStatus();
}

class Summary {
 public:
  void Add(const AttendCase& spec, const std::string& format, const Json& line) {
    if (!line.contains("us")) {
      ++(line.contains("skipped") ? skipped_ : failed_);
      return;
    }
    ++measured_;
    worst_error_ = std::max(worst_error_, line["error"].get<double>());
    const double us = line["us"].get<double>();
    if (spec.holes) {
      if (full_us_ > 0) worst_holes_ = std::max(worst_holes_, us / full_us_);
      return;
    }
    full_us_ = us;
    if (spec.batch < 64 || spec.live < 1024) return;
    double& share = shares_.emplace(format, 1e9).first->second;
    share = std::min(share, line["share_of_copy"].get<double>());
  }
  void StartFormat() { full_us_ = 0; }
  int failed() const { return failed_; }
  Json ToJson() const {
    return {{"bench", "attend"},
            {"summary", true},
            {"measured", measured_},
            {"skipped", skipped_},
            {"failed", failed_},
            {"worst_error", worst_error_},
            {"lowest_share_of_copy_from_batch_64_and_1024_tokens", shares_},
            {"most_time_with_holes_over_without", Rounded(worst_holes_, 3)}};
  }

 private:
  int measured_ = 0, skipped_ = 0, failed_ = 0;
  double worst_error_ = 0, worst_holes_ = 0;
  double full_us_ = 0;                    // of the case without holes that was measured last
  std::map<std::string, double> shares_;  // of each format, the lowest
};

absl::StatusOr<int> Run(const Options& options) {
  KV_ASSIGN_OR_RETURN(const std::vector<Point> points, ReadPoints(options));
  KV_ASSIGN_OR_RETURN(const cuda::Stream stream, cuda::NewStream());
  KV_ASSIGN_OR_RETURN(const Ceilings ceilings, MeasureCeilings(stream.get()));
  KV_ASSIGN_OR_RETURN(const Json device, DeviceLine("attend", ceilings));
  std::printf("%s\n", device.dump().c_str());
  Summary summary;
  for (const Point& point : points) {
    for (const std::string& format : FormatsOf(point, options)) {
      AttendCase spec = point.spec;
      KV_ASSIGN_OR_RETURN(spec.formats, ParseClassFormats(format));
      spec.memory_bytes = static_cast<uint64_t>(options.memory_gib * (uint64_t{1} << 30));
      summary.StartFormat();
      for (const bool holes : {false, true}) {
        if (options.holes == (holes ? "without" : "with")) continue;
        spec.holes = holes;
        spec.uneven = options.uneven;
        Json line = {{"bench", "attend"},          {"engine", "palimpsest"}, {"format", format},
                     {"shape", point.shape},       {"batch", spec.batch},    {"live", spec.live},
                     {"holes", holes ? 0.25 : 0.0}};
        if (spec.uneven) line["uneven"] = true;
        const absl::Status status = Measure(spec, options.seconds, ceilings, &line);
        if (!status.ok()) {
          line[absl::IsResourceExhausted(status) ? "skipped" : "failed"] = status.message();
        }
        std::printf("%s\n", line.dump().c_str());
        std::fflush(stdout);
        summary.Add(spec, format, line);
      }
    }
  }
  std::printf("%s\n", summary.ToJson().dump().c_str());
  return summary.failed() == 0 ? 0 : 1;
}

constexpr char kFooter[] = R"(
Times are a layer's, from CUDA graphs over layers with data of their own (none finds its tokens in
the L2 cache); "bytes" are those of whole pages, their live masks, open groups, queries and outputs.

Examples:
  attend_bench --quick
  attend_bench --case 32/8/128:64:1024 --format bf16 --format R4E4T2
  attend_bench --holes without > attend.jsonl
)";

}  // namespace
}  // namespace palimpsest::bench

int main(int argc, char** argv) {
  namespace flags = palimpsest::bench::flags;
  palimpsest::bench::Options options;
  CLI::App app("Paged decode attention on the GPU: GB/s of the bytes that had to be read.");
  app.footer(palimpsest::bench::kFooter);
  app.add_option("--cases", options.cases_file, "the grid")->capture_default_str();
  app.add_option("--case", options.cases, "SHAPE:BATCH:LIVE instead of the grid; may be repeated");
  app.add_flag("--quick", options.quick, "the grid's quick cases only");
  app.add_option("--format", options.formats,
                 "as the worker's --formats; may be repeated; by default seven")
      ->check(flags::Formats());
  app.add_option("--holes", options.holes, "a quarter of the slots dead: with, without or both")
      ->check(CLI::IsMember({"with", "without", "both"}))
      ->capture_default_str();
  app.add_flag(
      "--uneven", options.uneven,
      "lanes share the pages unequally, a quarter to three times the mean; not with formats that "
      "differ by class");
  app.add_option("--seconds", options.seconds, "timed work a case")
      ->check(flags::Seconds())
      ->capture_default_str();
  app.add_option("--memory-gib", options.memory_gib, "the largest pool")
      ->check(CLI::Range(0.1, 1024.0))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return palimpsest::bench::OnDevice("attend_bench",
                                     [&] { return palimpsest::bench::Run(options); });
}
