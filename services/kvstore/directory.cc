// SPDX-License-Identifier: Apache-2.0
#include "services/kvstore/directory.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"

namespace palimpsest {
namespace {

void CountDown(std::map<std::string, uint64_t>& counts, const std::string& name) {
  const auto found = counts.find(name);
  KV_CHECK(found != counts.end());
  if (--found->second == 0) counts.erase(found);
}

std::vector<NamedCount> LargestFirst(const std::map<std::string, uint64_t>& counts,
                                     size_t names_max) {
  std::vector<NamedCount> named;
  named.reserve(counts.size());
  for (const auto& [name, count] : counts) named.push_back({name, count});
  std::stable_sort(named.begin(), named.end(),
                   [](const NamedCount& a, const NamedCount& b) { return a.count > b.count; });
  if (named.size() > names_max) named.resize(names_max);
  return named;
}

}  // namespace

SequenceEntry* Directory::Add(std::unique_ptr<SequenceEntry> entry) {
  entry->ordinal = ++last_ordinal_;
  ++tenants_[entry->tenant];
  ++policies_[entry->policy_name];
  return entries_.emplace(entry->ordinal, std::move(entry)).first->second.get();
}

void Directory::Remove(uint64_t ordinal) {
  const auto found = entries_.find(ordinal);
  KV_CHECK(found != entries_.end());
  CountDown(tenants_, found->second->tenant);
  CountDown(policies_, found->second->policy_name);
  entries_.erase(found);
}

size_t Directory::needing_snapshot() const {
  return static_cast<size_t>(std::count_if(entries_.begin(), entries_.end(), [](const auto& entry) {
    return entry.second->needs_snapshot;
  }));
}

std::vector<NamedCount> Directory::CountByTenant(size_t names_max) const {
  return LargestFirst(tenants_, names_max);
}

std::vector<NamedCount> Directory::CountByPolicy(size_t names_max) const {
  return LargestFirst(policies_, names_max);
}

std::vector<const SequenceEntry*> Directory::List(uint64_t cursor, size_t entries_max,
                                                  const std::string& tenant, uint64_t& next) const {
  std::vector<const SequenceEntry*> listed;
  next = 0;
  for (auto it = entries_.upper_bound(cursor); it != entries_.end(); ++it) {
    if (!tenant.empty() && it->second->tenant != tenant) continue;
    if (listed.size() == entries_max) {
      if (!listed.empty()) next = listed.back()->ordinal;
      break;
    }
    listed.push_back(it->second.get());
  }
  return listed;
}

}  // namespace palimpsest
