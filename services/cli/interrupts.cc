// SPDX-License-Identifier: Apache-2.0
#include "services/cli/interrupts.h"

#include <array>
#include <csignal>
#include <ctime>

namespace palimpsest::cli {
namespace {

constexpr std::array kInterrupts = {SIGINT, SIGTERM, SIGHUP};

sigset_t Interrupts() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : kInterrupts) sigaddset(&set, number);
  return set;
}

}  // namespace

void HoldInterrupts() {
  const sigset_t set = Interrupts();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

int Interrupted() {
  static int first = 0;
  if (first != 0) return first;
  const sigset_t set = Interrupts();
  constexpr timespec kNow = {};
  const int taken = sigtimedwait(&set, nullptr, &kNow);
  if (taken > 0) first = taken;
  return first;
}

}  // namespace palimpsest::cli
