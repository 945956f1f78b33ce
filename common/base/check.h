// SPDX-License-Identifier: Apache-2.0
// KV_CHECK: an invariant of our own code. On in every build; a failure is a bug and aborts.
// What a peer or a user sends is never checked with it: that becomes an absl::Status.
#pragma once

namespace palimpsest {

// Prints `expression` with its place to stderr and aborts. Never returns.
[[noreturn]] void CheckFailed(const char* file, int line, const char* expression);

}  // namespace palimpsest

#define KV_CHECK(condition)                          \
  (__builtin_expect(static_cast<bool>(condition), 1) \
       ? static_cast<void>(0)                        \
       : ::palimpsest::CheckFailed(__FILE__, __LINE__, #condition))
