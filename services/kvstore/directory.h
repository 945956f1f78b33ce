// SPDX-License-Identifier: Apache-2.0
// Every sequence a shard knows, and what it knows of each. One thread owns it: the engine's.
//
// A sequence is entered under a number that is never used again, so that a listing can be paged
// through while sequences come and go.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/rpc/messages.h"

namespace palimpsest {

using SessionId = uint64_t;

// A plan that was handed to the session and has anneals the worker has not confirmed.
struct UnacknowledgedPlan {
  uint64_t number = 0;
  Clock::Time issued_at;
  std::vector<Anneal> anneals;
};

struct SequenceEntry {
  uint64_t ordinal = 0;  // in the directory
  SessionId session = 0;
  std::string worker_name;
  uint64_t sequence = 0;  // the worker's id
  std::string tenant;
  std::string policy_name;
  uint32_t budget_tokens = 0;
  uint32_t sparsity_layer_count = 0;
  Stamp stamp;
  std::unique_ptr<const Policy> policy;

  // Soft: rebuilt from a snapshot. Anneals count as done once they are planned.
  SequenceState state;
  Thought label = Thought::kReasoning;
  uint64_t last_report = 0;
  uint64_t last_report_fingerprint = 0;
  bool needs_snapshot = false;  // knows too little to plan

  uint64_t last_plan = 0;              // the highest number given out
  uint64_t last_plan_sent = 0;         // the highest that may have left
  std::optional<PlanMessage> pending;  // decided, not yet taken; later decisions merge into it
  bool queued = false;                 // in its session's output queue
  std::deque<UnacknowledgedPlan> unacknowledged;
};

class Directory {
 public:
  SequenceEntry* Add(std::unique_ptr<SequenceEntry> entry);
  void Remove(uint64_t ordinal);

  size_t size() const { return entries_.size(); }
  size_t needing_snapshot() const;
  std::vector<NamedCount> CountByTenant(size_t names_max) const;
  std::vector<NamedCount> CountByPolicy(size_t names_max) const;
  // Entries after `cursor`, at most `entries_max`, of `tenant` only unless it is empty. Sets `next`
  // to the cursor of the rest, or 0.
  std::vector<const SequenceEntry*> List(uint64_t cursor, size_t entries_max,
                                         const std::string& tenant, uint64_t& next) const;

 private:
  std::map<uint64_t, std::unique_ptr<SequenceEntry>> entries_;  // by ordinal
  std::map<std::string, uint64_t> tenants_;
  std::map<std::string, uint64_t> policies_;
  uint64_t last_ordinal_ = 0;
};

}  // namespace palimpsest
