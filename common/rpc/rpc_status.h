// SPDX-License-Identifier: Apache-2.0
// The border between KJ's exceptions and absl::Status. Nothing else in the program catches.
#pragma once

#include <kj/exception.h>

#include <functional>
#include <string_view>
#include <utility>

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

// While it lives, what KJ would print on stderr in this thread goes to `sink` instead, one line a
// message: a hostile peer must not be able to write into our log. Lives on the thread's stack.
class KjLogCapture : public kj::ExceptionCallback {
 public:
  explicit KjLogCapture(std::function<void(std::string_view)> sink) : sink_(std::move(sink)) {}

  void logMessage(kj::LogSeverity severity, const char* file, int line, int context_depth,
                  kj::String&& text) override;

 private:
  std::function<void(std::string_view)> sink_;
};

}  // namespace palimpsest
