// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/fault.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace palimpsest::cuda {

absl::StatusOr<FaultReport> FaultReport::Make(cudaStream_t stream) {
  FaultReport report;
  KV_ASSIGN_OR_RETURN(report.raised_, AllocateDevice(sizeof(uint32_t), stream, "the fault flag"));
  KV_ASSIGN_OR_RETURN(report.fault_, AllocatePinned(sizeof(Fault), "the fault report"));
  return report;
}

absl::Status FaultReport::Take(cudaStream_t stream) {
  const Fault met = std::exchange(*fault(), Fault{});
  if (met.kind == FaultKind::kNone) return absl::OkStatus();
  KV_RETURN_IF_ERROR(
      ToStatus(cudaMemsetAsync(raised_.get(), 0, sizeof(uint32_t), stream), "the fault flag"));
  switch (met.kind) {
    case FaultKind::kTooFewDeadSlots:
      return absl::FailedPreconditionError(absl::StrCat(
          "sequence ", met.sequence, ", class ", Letter(static_cast<Thought>(met.thought)),
          ", layer ", met.layer, ", KV head ", met.kv_head, ": ", met.found, " dead slots for ",
          met.needed, " tokens; nothing of that Seal was done"));
    case FaultKind::kNotFinite:
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", met.layer, ", row ", met.sequence,
                       " of the step: a NaN in k or v, or a q that is not finite"));
    case FaultKind::kPosition:
      return absl::InvalidArgumentError(absl::StrCat(
          "position ", met.needed, " is past the RoPE table of ", met.found, " positions"));
    case FaultKind::kNone:
      break;
  }
  return absl::InternalError("the device reported an unknown fault");
}

}  // namespace palimpsest::cuda
