// SPDX-License-Identifier: Apache-2.0
#include "common/rpc/rpc_status.h"

#include <algorithm>
#include <string>

namespace palimpsest {
namespace {

// A peer chooses the text of the exceptions it sends.
constexpr size_t kDescriptionBytesMax = 256;

std::string OneLine(kj::StringPtr text) {
  std::string line(text.begin(), std::min(text.size(), kDescriptionBytesMax));
  std::replace_if(
      line.begin(), line.end(), [](char c) { return static_cast<uint8_t>(c) < 0x20 || c == 0x7f; },
      ' ');
  return line;
}

class SilentCallback : public kj::ExceptionCallback {
 public:
  void logMessage(kj::LogSeverity, const char*, int, int, kj::String&&) override {}
};

}  // namespace

absl::Status StatusFromException(const kj::Exception& exception) {
  const std::string text = OneLine(exception.getDescription());
  switch (exception.getType()) {
    case kj::Exception::Type::DISCONNECTED:
      return absl::UnavailableError(text);
    case kj::Exception::Type::OVERLOADED:
      return absl::ResourceExhaustedError(text);
    case kj::Exception::Type::UNIMPLEMENTED:
      return absl::UnimplementedError(text);
    case kj::Exception::Type::FAILED:
      break;
  }
  return absl::InternalError(text);
}

kj::Exception ExceptionFromStatus(const absl::Status& status) {
  kj::Exception::Type type = kj::Exception::Type::FAILED;
  if (absl::IsUnavailable(status)) type = kj::Exception::Type::DISCONNECTED;
  if (absl::IsResourceExhausted(status)) type = kj::Exception::Type::OVERLOADED;
  if (absl::IsUnimplemented(status)) type = kj::Exception::Type::UNIMPLEMENTED;
  const std::string text(status.message());
  return kj::Exception(type, "palimpsest", 0, kj::heapString(text.data(), text.size()));
}

// Not instrumented, because KJ aborts unless the callback is on the thread's own stack, and
// detect_stack_use_after_return puts the locals of instrumented functions on another one.
__attribute__((noinline, no_sanitize_address)) void WithoutKjLog(
    absl::FunctionRef<void()> function) {
  const SilentCallback silent;
  function();
}

absl::Status CatchQuietly(absl::FunctionRef<void()> function) {
  return CatchKj([&] { WithoutKjLog(function); });
}

}  // namespace palimpsest
