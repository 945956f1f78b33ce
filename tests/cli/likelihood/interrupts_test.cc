// SPDX-License-Identifier: Apache-2.0
#include "services/cli/interrupts.h"

#include <gtest/gtest.h>

#include <csignal>

namespace palimpsest::cli {
namespace {

TEST(Interrupts, ASignalWaitsUntilItIsAskedForAndTheFirstIsRemembered) {
  HoldInterrupts();
  EXPECT_EQ(Interrupted(), 0);
  raise(SIGTERM);
  EXPECT_EQ(Interrupted(), SIGTERM);
  raise(SIGINT);
  EXPECT_EQ(Interrupted(), SIGTERM);
}

}  // namespace
}  // namespace palimpsest::cli
