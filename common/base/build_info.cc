// SPDX-License-Identifier: Apache-2.0
#include "common/base/build_info.h"

#include "common/base/build_commit.inc"  // written by build_commit.cmake at every build

namespace palimpsest {

absl::string_view BuildVersion() { return PALIMPSEST_VERSION; }
absl::string_view BuildCommit() { return kBuildCommit; }

}  // namespace palimpsest
