// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/kernel_times.h"

#include <cupti.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"

namespace palimpsest::bench {
namespace {

constexpr size_t kBufferBytes = size_t{8} << 20;

struct Interval {
  uint64_t begin = 0, end = 0;  // nanoseconds
  absl::string_view family;
};

// Our kernels by name; whatever else is a kernel belongs to the library of matrix products.
absl::string_view FamilyOf(absl::string_view kernel) {
  constexpr std::pair<absl::string_view, absl::string_view> kFamilies[] = {
      {"AttendKernel", "attention"}, {"AppendKernel", "append"},     {"PlaceTokens", "quantise"},
      {"WriteSlots", "quantise"},    {"SparsityKernel", "sparsity"}, {"FindTokens", "anneal"},
      {"Products", "anneal"},        {"Medoids", "anneal"},          {"KeepNewest", "anneal"},
      {"KeepByScore", "anneal"},     {"SampleTokens", "sampling"},
  };
  for (const auto& [part, family] : kFamilies) {
    if (absl::StrContains(kernel, part)) return family;
  }
  return absl::StrContains(kernel, "palimpsest") ? "other" : "weights";
}

// CUPTI's callbacks have no argument of their own.
std::mutex mutex;
std::vector<Interval> intervals;
size_t dropped = 0;

void CUPTIAPI GiveBuffer(uint8_t** buffer, size_t* size, size_t* records_max) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *size = kBufferBytes;
  *records_max = 0;
}

void Add(const CUpti_Activity* record) {
  switch (record->kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
      const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      intervals.push_back({kernel->start, kernel->end, FamilyOf(kernel->name)});
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMCPY: {
      const auto* copy = reinterpret_cast<const CUpti_ActivityMemcpy6*>(record);
      intervals.push_back({copy->start, copy->end, "other"});
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMSET: {
      const auto* fill = reinterpret_cast<const CUpti_ActivityMemset4*>(record);
      intervals.push_back({fill->start, fill->end, "other"});
      break;
    }
    default:
      break;
  }
}

void CUPTIAPI TakeBuffer(CUcontext context, uint32_t stream, uint8_t* buffer, size_t,
                         size_t valid_bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid_bytes, &record) == CUPTI_SUCCESS) Add(record);
  size_t lost = 0;
  if (cuptiActivityGetNumDroppedRecords(context, stream, &lost) == CUPTI_SUCCESS) dropped += lost;
  std::free(buffer);
}

absl::Status ToStatus(CUptiResult code, const char* what) {
  if (code == CUPTI_SUCCESS) return absl::OkStatus();
  const char* text = nullptr;
  (void)cuptiGetResultString(code, &text);
  return absl::UnavailableError(absl::StrCat(what, ": CUPTI: ", text == nullptr ? "?" : text));
}

constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                         CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET};

class CuptiTimes final : public KernelTimes {
 public:
  absl::Status Start() override {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      intervals.clear();
      dropped = 0;
    }
    for (const CUpti_ActivityKind kind : kKinds) {
      KV_RETURN_IF_ERROR(ToStatus(cuptiActivityEnable(kind), "recording kernels"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<DeviceTimes> Stop() override {
    KV_RETURN_IF_ERROR(
        ToStatus(cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED), "fetching records"));
    for (const CUpti_ActivityKind kind : kKinds) {
      KV_RETURN_IF_ERROR(ToStatus(cuptiActivityDisable(kind), "ending the recording"));
    }
    const std::lock_guard<std::mutex> lock(mutex);
    if (dropped > 0) return absl::DataLossError(absl::StrCat(dropped, " records were dropped"));
    std::sort(intervals.begin(), intervals.end(),
              [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
    DeviceTimes times{.seconds = {}, .idle_before = {}, .records = intervals.size()};
    uint64_t done = intervals.empty() ? 0 : intervals.front().begin;
    for (const Interval& interval : intervals) {
      const uint64_t begin = std::max(done, interval.begin);
      times.idle_before[std::string(interval.family)] += static_cast<double>(begin - done) * 1e-9;
      if (interval.end <= begin) continue;
      times.seconds[std::string(interval.family)] +=
          static_cast<double>(interval.end - begin) * 1e-9;
      done = interval.end;
    }
    return times;
  }
};

}  // namespace

double DeviceTimes::busy_seconds() const {
  double sum = 0;
  for (const auto& [family, time] : seconds) sum += time;
  return sum;
}

absl::StatusOr<std::unique_ptr<KernelTimes>> NewKernelTimes() {
  KV_RETURN_IF_ERROR(
      ToStatus(cuptiActivityRegisterCallbacks(GiveBuffer, TakeBuffer), "registering with CUPTI"));
  return std::make_unique<CuptiTimes>();
}

}  // namespace palimpsest::bench
