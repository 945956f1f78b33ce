// SPDX-License-Identifier: Apache-2.0
// What this binary was built from.
#pragma once

#include "absl/strings/string_view.h"

namespace palimpsest {

absl::string_view BuildVersion();  // "0.1.0"
absl::string_view BuildCommit();   // "24e18efa0b12", with "-dirty" for changed files; or "unknown"

}  // namespace palimpsest
