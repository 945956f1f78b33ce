// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/judge.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace palimpsest::cli {
namespace {

absl::Status NotFinite(const ForcedRow& row) {
  return absl::DataLossError(absl::StrCat("position ", row.position,
                                          ": a logit is not finite: the model or its cache is "
                                          "broken"));
}

}  // namespace

void Judge::Add(uint64_t chain, uint64_t reference) {
  KV_CHECK(chain == chains_.size() && reference <= chain);
  chains_.emplace_back();
  chains_.back().reference = reference;
}

void Judge::ForEach(const std::vector<size_t>& rows, TaskTeam::Work work) {
  if (!rows.empty()) team_.Run(static_cast<int>(rows.size()), work);
}

absl::Status Judge::Take(absl::Span<const ForcedRow> rows) {
  ++step_;
  references_.clear();
  others_.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    Chain& chain = chains_[rows[i].chain];
    if (chain.reference != rows[i].chain) {
      others_.push_back(i);
      continue;
    }
    references_.push_back(i);
    chain.step = step_;
    chain.position = rows[i].position;
  }
  ForEach(references_, [&](int task, int) {
    const ForcedRow& row = rows[references_[task]];
    Chain& chain = chains_[row.chain];
    chain.finite = chain.row.Read(row.logits);
  });
  for (const size_t i : references_) {
    if (!chains_[rows[i].chain].finite) return NotFinite(rows[i]);
  }
  for (const size_t i : others_) {
    Chain& chain = chains_[rows[i].chain];
    const Chain& reference = chains_[chain.reference];
    if (reference.step != step_ || reference.position != rows[i].position) {
      return absl::InternalError(absl::StrCat("position ", rows[i].position,
                                              ": the full cache's chain is not there as well"));
    }
    chain.positions.emplace_back();
  }
  ForEach(others_, [&](int task, int) {
    const ForcedRow& row = rows[others_[task]];
    Chain& chain = chains_[row.chain];
    chain.positions.back() =
        Compare(chains_[chain.reference].row, row.logits, static_cast<size_t>(row.target));
  });
  for (const size_t i : others_) {
    if (!chains_[rows[i].chain].positions.back().finite) return NotFinite(rows[i]);
  }
  return absl::OkStatus();
}

std::vector<Divergence> Judge::Finish(uint64_t chain) {
  chains_[chain].row = {};
  return std::exchange(chains_[chain].positions, {});
}

}  // namespace palimpsest::cli
