// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/step_tables.h"

namespace palimpsest::cuda {

// Writes the entries of pages of one format to `entries`. Returns where the next go.
inline PageEntry* PutPages(absl::Span<const PageOffset> pages, PageFormat format,
                           PageEntry* entries) {
  const auto pair = static_cast<PageEntry>(FormatPair(format));
  for (const PageOffset page : pages) *entries++ = page | pair;
  return entries;
}

}  // namespace palimpsest::cuda
