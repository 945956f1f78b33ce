// SPDX-License-Identifier: Apache-2.0
// What happens to chains whose open group is full: waiting plans are carried out, the group is
// sealed, the store is told, and where no store answers the chain's own planner does.
//
// Order within a boundary: (1) plans that have arrived, so that this very group is written in the
// decided format and into the slots just freed; (2) seal; (3) report; (4) in lockstep wait for the
// plan and carry it out, without a store plan locally. All chains of a step go through each stage
// together, so that each is one kernel call. The first two want nothing but the step to have been
// ordered, the others what it has measured.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/clock.h"
#include "kernels/backend.h"
#include "services/decode/control_plane.h"
#include "services/decode/engine/chain.h"
#include "services/decode/engine/snapshot.h"

namespace palimpsest {

class BoundaryWork {
 public:
  struct Options {
    bool lockstep = false;
    std::chrono::milliseconds lockstep_deadline{2000};
  };

  // All outlive this. `control` and `observer` may be null.
  BoundaryWork(const Options& options, Backend* backend, ControlPlane* control, const Clock* clock,
               EngineObserver* observer);

  // Takes chains whose open group is full through the first half of the boundary: (1) and (2). A
  // chain that finds no room at all is marked finished with ResourceExhausted; an error returned is
  // the backend's, and fatal.
  absl::Status SealGroups(absl::Span<Chain* const> chains);
  // The second half, for the same chains: (3) and (4). Chain::sparsity is that of the window's end.
  absl::Status ReportAndPlan(absl::Span<Chain* const> chains);

 private:
  // What a chain is to carry out.
  struct Decided {
    Chain* chain = nullptr;
    Plan plan;
    bool from_store = false;  // which is then told what it came to
    bool at_once = false;     // not gradually, whatever the policy: room is wanted now
  };
  // All of them in one kernel call. Replaces each anneal by what it came to.
  absl::Status Apply(absl::Span<Decided> decided);
  absl::Status CommitPlan(Chain& chain, Plan& plan);
  absl::Status Seal(absl::Span<Chain* const> chains);
  // Gives the chain room for its open group, by relief if need be; sets `thought` to the class.
  absl::Status MakeRoom(Chain& chain, Thought& thought);
  void Report(absl::Span<Chain* const> chains);
  absl::Status PlanNow(absl::Span<Chain* const> chains);
  // What the chain's own policy says now; often nothing. Unless the store plans the same, whoever
  // takes it sets Chain::resync.
  Plan PlanLocally(Chain& chain, bool refresh);
  // What plans that have arrived come to together.
  Decided TakeStorePlans(Chain& chain, std::vector<StorePlan> plans);

  const Options options_;
  Backend* const backend_;
  ControlPlane* const control_;
  const Clock* const clock_;
  EngineObserver* const observer_;
  // Of the boundary at hand: what each chain sealed and whether a window ended with it.
  struct Sealed {
    bool done = false;
    bool refresh = false;
    std::vector<SealedTokens> runs;
  };
  std::vector<Sealed> sealed_;
};

}  // namespace palimpsest
