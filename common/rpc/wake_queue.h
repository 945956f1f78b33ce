// SPDX-License-Identifier: Apache-2.0
// A bounded queue from any thread to one KJ event loop. Producers never wait: a full queue says so.
// The loop watches fd() and takes everything at once.
#pragma once

#include <kj/async-unix.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "common/base/check.h"

namespace palimpsest {

template <typename T>
class WakeQueue {
 public:
  explicit WakeQueue(size_t items_max)
      : items_max_(items_max), fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    KV_CHECK(fd_ >= 0);
    items_.reserve(items_max_ < 1024 ? items_max_ : 1024);
  }
  ~WakeQueue() { ::close(fd_); }
  WakeQueue(const WakeQueue&) = delete;
  WakeQueue& operator=(const WakeQueue&) = delete;

  // Any thread. False, and `item` dropped, when the queue is full.
  bool TryPush(T item) { return PushWithin(items_max_, std::move(item)); }

  // Any thread. For what must not be lost and is bounded otherwise (a Finish a sequence).
  void PushAlways(T item) { PushWithin(SIZE_MAX, std::move(item)); }

  // The loop's thread. Everything that was pushed, oldest first.
  std::vector<T> TakeAll() {
    uint64_t ignored;
    // Before the items are taken: a push in between makes the fd readable again.
    [[maybe_unused]] const ssize_t count = ::read(fd_, &ignored, sizeof ignored);
    std::vector<T> taken;
    const std::lock_guard<std::mutex> lock(mutex_);
    taken.swap(items_);
    return taken;
  }

  // Readable when there is something to take. Observe it with kj::UnixEventPort::FdObserver, and
  // wait only right after TakeAll().
  int fd() const { return fd_; }

 private:
  bool PushWithin(size_t items_max, T item) {
    bool was_empty;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (items_.size() >= items_max) return false;
      was_empty = items_.empty();
      items_.push_back(std::move(item));
    }
    if (was_empty) {
      const uint64_t one = 1;
      [[maybe_unused]] const ssize_t count = ::write(fd_, &one, sizeof one);
    }
    return true;
  }

  const size_t items_max_;
  const int fd_;
  std::mutex mutex_;
  std::vector<T> items_;
};

// Calls `consume(items)` for everything pushed to `queue`, until it is dropped. One a queue.
template <typename T>
class WakeQueueReader {
 public:
  WakeQueueReader(kj::UnixEventPort& port, WakeQueue<T>& queue)
      : queue_(queue), observer_(port, queue.fd(), kj::UnixEventPort::FdObserver::OBSERVE_READ) {}

  template <typename Consume>
  kj::Promise<void> Run(Consume consume) {
    std::vector<T> items = queue_.TakeAll();
    if (!items.empty()) consume(std::move(items));
    return observer_.whenBecomesReadable().then(
        [this, consume = kj::mv(consume)]() mutable { return Run(kj::mv(consume)); });
  }

 private:
  WakeQueue<T>& queue_;
  kj::UnixEventPort::FdObserver observer_;
};

}  // namespace palimpsest
