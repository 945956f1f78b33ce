// SPDX-License-Identifier: Apache-2.0
// The part of AttendBed that holds a step to the reference.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "bench/attend_case.h"
#include "common/base/status_macros.h"

namespace palimpsest::bench {
namespace {

using cuda::AllocateDevice;
using cuda::DeviceBytes;
using cuda::ToStatus;

float FromBf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

double ReceivedError(const JudgedSlot* before, const JudgedSlot* after, size_t count) {
  double worst = 0;
  for (size_t i = 0; i < count; ++i) {
    const double received = before[i].live != 0 ? before[i].mass : 0.0;
    const double added = double{after[i].score} - before[i].score;
    worst = std::max(worst, (std::fabs(added - received) - 1e-6) / (received + 1e-6));
  }
  return worst;
}

// Of one sequence.
double EvictionError(const JudgedSlot* before, const JudgedSlot* after, size_t heads, size_t slots,
                     uint32_t evict_from) {
  double least = std::numeric_limits<double>::infinity(), evicted = 0;
  size_t gone = 0;
  for (size_t i = 0; i < slots; ++i) {
    double value = 0;
    size_t dead = 0;
    for (size_t h = 0; h < heads; ++h) {
      const JudgedSlot& slot = before[h * slots + i];
      value += double{slot.mass} * slot.score;
      dead += slot.live != after[h * slots + i].live ? 1 : 0;
    }
    if (before[i].live == 0 || before[i].position < evict_from) continue;
    least = std::min(least, value);
    if (dead == heads) evicted = value;
    gone += dead;
  }
  return gone == heads ? evicted / least - 1 : std::numeric_limits<double>::infinity();
}

}  // namespace

absl::StatusOr<AttendError> AttendBed::Verify(int layer) {
  const uint64_t count = uint64_t{spec_.batch} * spec_.query_heads * spec_.head_dim;
  KV_ASSIGN_OR_RETURN(const DeviceBytes exact_out,
                      AllocateDevice(count * 4, stream(), "exact outputs"));
  KV_ASSIGN_OR_RETURN(const DeviceBytes v_max_out, AllocateDevice(4, stream(), "the largest V"));
  KV_RETURN_IF_ERROR(ToStatus(cudaMemsetAsync(out_.get(), 0xff, count * 2, stream()), "outputs"));
  KV_RETURN_IF_ERROR(Attend(layer));
  KV_RETURN_IF_ERROR(ToStatus(ReferenceAttend(Pages(), layer, kGroupTokens, q_.get(), scale(),
                                              reinterpret_cast<float*>(exact_out.get()),
                                              reinterpret_cast<float*>(v_max_out.get()), stream()),
                              "the reference"));
  std::vector<uint16_t> out(count);
  std::vector<float> exact(count);
  float v_max = 0;
  const auto fetch = [&](void* to, const DeviceBytes& from, uint64_t bytes) {
    return ToStatus(cudaMemcpyAsync(to, from.get(), bytes, cudaMemcpyDeviceToHost, stream()),
                    "fetching outputs");
  };
  KV_RETURN_IF_ERROR(fetch(out.data(), out_, count * 2));
  KV_RETURN_IF_ERROR(fetch(exact.data(), exact_out, count * 4));
  KV_RETURN_IF_ERROR(fetch(&v_max, v_max_out, 4));
  KV_RETURN_IF_ERROR(backend_->Synchronize());
  double largest = 0, squares = 0, squares_exact = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const double difference = double{FromBf16(out[i])} - exact[i];
    // Not std::max, which would drop a NaN.
    if (!(std::fabs(difference) <= largest)) largest = std::fabs(difference);
    squares += difference * difference;
    squares_exact += double{exact[i]} * exact[i];
  }
  return AttendError{largest / v_max, std::sqrt(squares / squares_exact)};
}

absl::StatusOr<std::vector<JudgedSlot>> AttendBed::Judge(int layer) {
  const uint64_t count = uint64_t{spec_.batch} * spec_.kv_heads * pages_each_ * kSlotsPerPage;
  KV_ASSIGN_OR_RETURN(const DeviceBytes judged,
                      AllocateDevice(count * sizeof(JudgedSlot), stream(), "judged slots"));
  const uint64_t queries = uint64_t{spec_.batch} * spec_.query_heads;
  KV_ASSIGN_OR_RETURN(const DeviceBytes log_sums,
                      AllocateDevice(queries * sizeof(float), stream(), "denominators"));
  KV_RETURN_IF_ERROR(ToStatus(JudgeSlots(Pages(), layer, kGroupTokens, q_.get(), scale(),
                                         reinterpret_cast<float*>(log_sums.get()),
                                         reinterpret_cast<JudgedSlot*>(judged.get()), stream()),
                              "judge slots"));
  std::vector<JudgedSlot> slots(count);
  KV_RETURN_IF_ERROR(
      ToStatus(cudaMemcpyAsync(slots.data(), judged.get(), count * sizeof(JudgedSlot),
                               cudaMemcpyDeviceToHost, stream()),
               "judged slots"));
  KV_RETURN_IF_ERROR(backend_->Synchronize());
  return slots;
}

absl::StatusOr<double> AttendBed::VerifyScores(int layer) {
  KV_ASSIGN_OR_RETURN(const std::vector<JudgedSlot> before, Judge(layer));
  KV_RETURN_IF_ERROR(Attend(layer));
  KV_ASSIGN_OR_RETURN(const std::vector<JudgedSlot> after, Judge(layer));
  const auto heads = static_cast<size_t>(spec_.kv_heads);
  const size_t slots = size_t{pages_each_} * kSlotsPerPage;
  double worst = 0;
  for (size_t s = 0; s < spec_.batch; ++s) {
    const JudgedSlot* const from = &before[s * heads * slots];
    const JudgedSlot* const to = &after[s * heads * slots];
    const double error = spec_.slot_score == SlotScore::kValueNorm
                             ? EvictionError(from, to, heads, slots, kPromptTokens)
                             : ReceivedError(from, to, heads * slots);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

}  // namespace palimpsest::bench
