// SPDX-License-Identifier: Apache-2.0
// The border between KJ's exceptions and absl::Status. Nothing else in the program catches.
#pragma once

#include <kj/exception.h>

#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace palimpsest {

// DISCONNECTED -> Unavailable, OVERLOADED -> ResourceExhausted, UNIMPLEMENTED -> Unimplemented,
// FAILED -> Internal. The message is one line, without KJ's file and line.
absl::Status StatusFromException(const kj::Exception& exception);
kj::Exception ExceptionFromStatus(const absl::Status& status);

// Runs `function` and turns what KJ throws into a Status.
template <typename Function>
absl::Status CatchKj(Function&& function) {
  absl::Status status;
  KJ_IF_MAYBE (exception, kj::runCatchingExceptions([&] { std::forward<Function>(function)(); })) {
    status = StatusFromException(*exception);
  }
  return status;
}

// Runs `function` while nothing that KJ would print on stderr in this thread is printed: a hostile
// peer must not be able to write into our log.
void WithoutKjLog(absl::FunctionRef<void()> function);

// Both of these: what a thread that runs a KJ event loop is wrapped in.
absl::Status CatchQuietly(absl::FunctionRef<void()> function);

}  // namespace palimpsest
