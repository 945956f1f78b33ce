// SPDX-License-Identifier: Apache-2.0
// How every program of ours ends. Scripts depend on these numbers; never renumber one.
#pragma once

namespace palimpsest {

enum ExitCode : int {
  kExitOk = 0,
  kExitFailed = 1,     // tried and failed
  kExitUsage = 2,      // a flag, the configuration file or their combination is wrong
  kExitRefused = 3,    // the other side said no: permission, quota, a full pool
  kExitTimeout = 4,    // no answer in time
  kExitUnhealthy = 10  // reachable, but says that it is not well
};

}  // namespace palimpsest
