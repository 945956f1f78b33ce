// SPDX-License-Identifier: Apache-2.0
// Ctrl-C for verbs that compute in this process: asked for between steps, never handled within one.
// oneDNN's products use a heap buffer as their stack, and the frame of a handler that interrupts
// one would overwrite what lies beside it.
#pragma once

namespace palimpsest::cli {

// From now on SIGINT, SIGTERM and SIGHUP wait until Interrupted asks. To be called before the first
// thread starts, as threads inherit it.
void HoldInterrupts();

// The first of these signals that has come, or 0.
int Interrupted();

}  // namespace palimpsest::cli
