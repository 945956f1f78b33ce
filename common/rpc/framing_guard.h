// SPDX-License-Identifier: Apache-2.0
// A stream that reads each incoming message's segment table before Cap'n Proto does.
//
// Cap'n Proto 0.9.2 takes a first word of FFFFFFFF for zero segments and then writes out of bounds,
// and it allocates what a header claims. So no byte of a message is passed on before its whole
// segment table is here and obeys common/base/limits.h. A message that does not ends the stream:
// the reader gets an exception and never another byte.
//
// It also reads ahead (64 KiB), which saves two system calls a message.
#pragma once

#include <kj/async-io.h>

#include <cstdint>
#include <functional>
#include <string_view>

#include "common/base/limits.h"

namespace palimpsest {

enum class FramingError : uint8_t {
  kSegmentOverflow,  // the first word is FFFFFFFF
  kTooManySegments,
  kTooManyBytes,
};
std::string_view Name(FramingError error);

struct FramingLimits {
  uint32_t segments_max = limits::kSegmentsMax;
  size_t message_bytes_max = limits::kMessageBytesMax;
};

// Wraps `inner`. `on_refused` (optional) is called once, when a message is refused.
kj::Own<kj::AsyncIoStream> NewFramingGuard(kj::Own<kj::AsyncIoStream> inner,
                                           std::function<void(FramingError)> on_refused,
                                           FramingLimits limits = {});

}  // namespace palimpsest
