// SPDX-License-Identifier: Apache-2.0
#include "common/rpc/framing_guard.h"

#include <kj/debug.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

namespace palimpsest {
namespace {

constexpr size_t kReadAheadBytes = 64u << 10;
constexpr size_t kWordBytes = 8;

uint32_t LoadLittleEndian32(const kj::byte* bytes) {
  return uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8 | uint32_t{bytes[2]} << 16 |
         uint32_t{bytes[3]} << 24;
}

class FramingGuard final : public kj::AsyncIoStream {
 public:
  FramingGuard(kj::Own<kj::AsyncIoStream> inner, std::function<void(FramingError)> on_refused,
               FramingLimits limits)
      : inner_(kj::mv(inner)),
        on_refused_(std::move(on_refused)),
        limits_(limits),
        buffer_(kj::heapArray<kj::byte>(kReadAheadBytes)) {}

  kj::Promise<size_t> tryRead(void* out, size_t min_bytes, size_t max_bytes) override {
    return Read(static_cast<kj::byte*>(out), min_bytes, max_bytes, 0);
  }

  kj::Promise<void> write(const void* bytes, size_t size) override {
    return inner_->write(bytes, size);
  }
  kj::Promise<void> write(kj::ArrayPtr<const kj::ArrayPtr<const kj::byte>> pieces) override {
    return inner_->write(pieces);
  }
  kj::Promise<void> whenWriteDisconnected() override { return inner_->whenWriteDisconnected(); }
  void shutdownWrite() override { inner_->shutdownWrite(); }
  void abortRead() override { inner_->abortRead(); }
  void getsockopt(int level, int option, void* value, kj::uint* length) override {
    inner_->getsockopt(level, option, value, length);
  }
  void setsockopt(int level, int option, const void* value, kj::uint length) override {
    inner_->setsockopt(level, option, value, length);
  }
  void getsockname(struct sockaddr* address, kj::uint* length) override {
    inner_->getsockname(address, length);
  }
  void getpeername(struct sockaddr* address, kj::uint* length) override {
    inner_->getpeername(address, length);
  }
  kj::Maybe<int> getFd() const override { return inner_->getFd(); }

 private:
  size_t buffered() const { return end_ - begin_; }

  // Copies what may be passed on until `min_bytes` are there; `done` of them already are.
  kj::Promise<size_t> Read(kj::byte* out, size_t min_bytes, size_t max_bytes, size_t done) {
    while (done < min_bytes) {
      if (refused_.has_value()) return RefusedException();
      if (allowed_ == 0 && !ParseHeader()) {
        if (refused_.has_value()) continue;
        return ReadMore(out, min_bytes, max_bytes, done);
      }
      if (allowed_ == 0) continue;
      if (buffered() == 0) {
        if (allowed_ >= kReadAheadBytes) return ReadDirectly(out, min_bytes, max_bytes, done);
        return ReadMore(out, min_bytes, max_bytes, done);
      }
      const size_t count = std::min({buffered(), allowed_, max_bytes - done});
      std::memcpy(out + done, buffer_.begin() + begin_, count);
      begin_ += count;
      allowed_ -= count;
      done += count;
    }
    return done;
  }

  // Reads ahead, then goes on. At the end of the stream a part of a header is never passed on.
  kj::Promise<size_t> ReadMore(kj::byte* out, size_t min_bytes, size_t max_bytes, size_t done) {
    if (begin_ > 0) {
      std::memmove(buffer_.begin(), buffer_.begin() + begin_, buffered());
      end_ -= begin_;
      begin_ = 0;
    }
    return inner_->tryRead(buffer_.begin() + end_, 1, kReadAheadBytes - end_)
        .then([this, out, min_bytes, max_bytes, done](size_t count) -> kj::Promise<size_t> {
          if (count == 0) return done;
          end_ += count;
          return Read(out, min_bytes, max_bytes, done);
        });
  }

  // A large body goes to the reader's memory without a copy.
  kj::Promise<size_t> ReadDirectly(kj::byte* out, size_t min_bytes, size_t max_bytes, size_t done) {
    const size_t least = std::min(min_bytes - done, allowed_);
    return inner_->tryRead(out + done, least, std::min(max_bytes - done, allowed_))
        .then([this, out, min_bytes, max_bytes, done, least](size_t count) -> kj::Promise<size_t> {
          allowed_ -= count;
          if (count < least) return done + count;
          return Read(out, min_bytes, max_bytes, done + count);
        });
  }

  // Reads the segment table at the front of the buffer. False: not all of it is here, or refused.
  bool ParseHeader() {
    const kj::byte* header = buffer_.begin() + begin_;
    if (buffered() < 4) return false;
    const uint32_t last_segment = LoadLittleEndian32(header);
    if (last_segment == 0xffffffffu) return Refuse(FramingError::kSegmentOverflow);
    if (last_segment >= limits_.segments_max) return Refuse(FramingError::kTooManySegments);
    const size_t segment_count = last_segment + 1;
    const size_t table_bytes = (4 * (1 + segment_count) + kWordBytes - 1) / kWordBytes * kWordBytes;
    if (buffered() < table_bytes) {
      // The sizes that are here already may be enough to refuse.
      return CheckSizes(header, std::min(segment_count, buffered() / 4 - 1)) && false;
    }
    if (!CheckSizes(header, segment_count)) return false;
    allowed_ = table_bytes + body_bytes_;
    return true;
  }

  bool CheckSizes(const kj::byte* header, size_t segment_count) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < segment_count; ++i) {
      bytes += uint64_t{LoadLittleEndian32(header + 4 * (1 + i))} * kWordBytes;
    }
    if (bytes > limits_.message_bytes_max) return Refuse(FramingError::kTooManyBytes);
    body_bytes_ = bytes;
    return true;
  }

  bool Refuse(FramingError error) {
    refused_ = error;
    if (on_refused_) on_refused_(error);
    return false;
  }

  kj::Exception RefusedException() const {
    const std::string name(Name(*refused_));
    return KJ_EXCEPTION(DISCONNECTED, "framing guard refused a message", name.c_str());
  }

  kj::Own<kj::AsyncIoStream> inner_;
  std::function<void(FramingError)> on_refused_;
  const FramingLimits limits_;
  kj::Array<kj::byte> buffer_;
  size_t begin_ = 0;  // of what is in the buffer and not passed on
  size_t end_ = 0;
  size_t allowed_ = 0;  // bytes of the current message, header included, that may be passed on
  uint64_t body_bytes_ = 0;
  std::optional<FramingError> refused_;
};

}  // namespace

std::string_view Name(FramingError error) {
  switch (error) {
    case FramingError::kSegmentOverflow:
      return "segment_overflow";
    case FramingError::kTooManySegments:
      return "too_many_segments";
    case FramingError::kTooManyBytes:
      return "too_many_bytes";
  }
  return "unknown";
}

kj::Own<kj::AsyncIoStream> NewFramingGuard(kj::Own<kj::AsyncIoStream> inner,
                                           std::function<void(FramingError)> on_refused,
                                           FramingLimits limits) {
  return kj::heap<FramingGuard>(kj::mv(inner), std::move(on_refused), limits);
}

}  // namespace palimpsest
