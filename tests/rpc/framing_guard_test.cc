// SPDX-License-Identifier: Apache-2.0
// Hostile bytes in front of Cap'n Proto. Under ASan these tests fail without the guard.
#include "common/rpc/framing_guard.h"

#include <capnp/message.h>
#include <capnp/serialize-async.h>
#include <capnp/serialize.h>
#include <gtest/gtest.h>
#include <kj/async-io.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <vector>

#include "common/base/check.h"
#include "common/rpc/rpc_connection.h"
#include "common/rpc/rpc_status.h"
#include "common/rpc/wire.h"

namespace palimpsest {
namespace {

using Bytes = std::vector<kj::byte>;

void AppendWord32(Bytes& bytes, uint32_t value) {
  for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<kj::byte>(value >> (8 * i)));
}

Bytes RecordedMessage() {
  capnp::MallocMessageBuilder message(16);  // small: so that there are several segments
  SnapshotMessage snapshot;
  snapshot.sequence = 42;
  snapshot.tenant = "acme";
  for (uint32_t i = 0; i < 40; ++i) {
    snapshot.state.segments.push_back(
        {.first_position = i * 16, .token_count = 16, .live_count = 16});
  }
  Write(snapshot, message.initRoot<wire::Snapshot>());
  const auto words = capnp::messageToFlatArray(message);
  const auto bytes = words.asBytes();
  return Bytes(bytes.begin(), bytes.end());
}

// Reads everything at once, without an event loop racing: the bytes are there before the reader is.
struct Whole {
  int messages = 0;
  bool failed = false;
  std::optional<FramingError> refused;
};

Whole ReadWhole(const Bytes& bytes, size_t piece) {
  Whole whole;
  auto io = kj::setupAsyncIo();
  int fds[2];
  KV_CHECK(::pipe(fds) == 0);
  std::thread writer([&bytes, piece, fd = fds[1]] {
    for (size_t at = 0; at < bytes.size(); at += piece) {
      const size_t count = std::min(piece, bytes.size() - at);
      if (::write(fd, bytes.data() + at, count) < 0) break;
    }
    ::close(fd);
  });
  {
    auto pipe = io.provider->newTwoWayPipe();
    auto source =
        io.lowLevelProvider->wrapInputFd(fds[0], kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP);
    auto guarded =
        NewFramingGuard(kj::mv(pipe.ends[0]), [&](FramingError error) { whole.refused = error; });
    auto sink = kj::mv(pipe.ends[1]);
    auto pump = source->pumpTo(*sink)
                    .then([&sink](uint64_t) { sink->shutdownWrite(); })
                    .eagerlyEvaluate([](kj::Exception&&) {});
    const absl::Status status = CatchKj([&] {
      for (;;) {
        auto message = capnp::tryReadMessage(*guarded, RpcReaderOptions()).wait(io.waitScope);
        if (message == nullptr) break;
        ++whole.messages;
      }
    });
    whole.failed = !status.ok();
  }
  writer.join();
  return whole;
}

TEST(FramingTest, ValidMessagesPassInPiecesOfAnySize) {
  Bytes stream;
  for (int i = 0; i < 5; ++i) {
    const Bytes message = RecordedMessage();
    stream.insert(stream.end(), message.begin(), message.end());
  }
  for (const size_t piece :
       {size_t{1}, size_t{3}, size_t{7}, size_t{8}, size_t{4096}, stream.size()}) {
    const Whole whole = ReadWhole(stream, piece);
    EXPECT_EQ(whole.messages, 5) << piece;
    EXPECT_FALSE(whole.failed) << piece;
    EXPECT_FALSE(whole.refused.has_value());
  }
}

TEST(FramingTest, ALargeBodyPassesWithoutACopyThroughTheBuffer) {
  Bytes bytes;
  const uint32_t words = limits::kMessageBytesMax / 8;
  AppendWord32(bytes, 0);
  AppendWord32(bytes, words);
  bytes.resize(bytes.size() + size_t{words} * 8);
  const Bytes small = RecordedMessage();
  bytes.insert(bytes.end(), small.begin(), small.end());
  const Whole whole = ReadWhole(bytes, 100000);
  EXPECT_EQ(whole.messages, 2);
  EXPECT_FALSE(whole.failed);
}

TEST(FramingTest, AFirstWordOfAllOnesIsRefused) {
  for (const size_t piece : {1u, 4u, 64u}) {
    Bytes bytes(64, 0xff);
    const Whole whole = ReadWhole(bytes, piece);
    EXPECT_EQ(whole.messages, 0);
    EXPECT_TRUE(whole.failed);
    EXPECT_EQ(whole.refused, FramingError::kSegmentOverflow);
  }
}

TEST(FramingTest, TooManySegmentsAreRefusedFromTheFirstWord) {
  for (const uint32_t segments : {65u, 512u, 513u, 0x7fffffffu, 0xfffffffeu}) {
    Bytes bytes;
    AppendWord32(bytes, segments - 1);
    const Whole whole = ReadWhole(bytes, 4);
    EXPECT_TRUE(whole.failed) << segments;
    EXPECT_EQ(whole.refused, FramingError::kTooManySegments) << segments;
  }
}

TEST(FramingTest, AMessageThatClaimsTooMuchIsRefusedFromItsHeaderAlone) {
  for (const uint32_t words : {(4u << 20) / 8 + 1, 0x20000000u, 0xffffffffu}) {
    Bytes bytes;
    AppendWord32(bytes, 0);
    AppendWord32(bytes, words);
    bytes.insert(bytes.end(), 16, 0);  // the trickle
    const Whole whole = ReadWhole(bytes, 1);
    EXPECT_TRUE(whole.failed);
    EXPECT_EQ(whole.refused, FramingError::kTooManyBytes);
  }
  // Each of 64 segments is small enough, their sum is not; the sum does not wrap.
  Bytes bytes;
  AppendWord32(bytes, 63);
  for (int i = 0; i < 64; ++i) AppendWord32(bytes, 0xffffffffu);
  AppendWord32(bytes, 0);
  EXPECT_EQ(ReadWhole(bytes, 5).refused, FramingError::kTooManyBytes);
}

TEST(FramingTest, TruncationAtEveryByteIsAnEndAndNothingElse) {
  const Bytes message = RecordedMessage();
  for (size_t cut = 0; cut < message.size(); ++cut) {
    const Bytes bytes(message.begin(), message.begin() + static_cast<ptrdiff_t>(cut));
    const Whole whole = ReadWhole(bytes, bytes.size() + 1);
    ASSERT_EQ(whole.messages, 0) << cut;
    ASSERT_FALSE(whole.refused.has_value()) << cut;
  }
}

TEST(FramingTest, EmptySegmentsPass) {
  Bytes bytes;
  AppendWord32(bytes, 63);
  AppendWord32(bytes, 1);
  for (int i = 0; i < 63; ++i) AppendWord32(bytes, 0);
  AppendWord32(bytes, 0);          // the table is padded to a word
  bytes.resize(bytes.size() + 8);  // the one word there is
  const Whole whole = ReadWhole(bytes, 1000);
  EXPECT_FALSE(whole.refused.has_value());
  EXPECT_EQ(whole.messages, 1);
}

}  // namespace
}  // namespace palimpsest
