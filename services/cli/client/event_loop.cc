// SPDX-License-Identifier: Apache-2.0
#include "services/cli/client/event_loop.h"

#include <csignal>

#include "services/cli/client/event_loop_impl.h"

namespace palimpsest::cli {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};

kj::AsyncIoContext CaptureSignalsAndSetUp() {
  for (const int number : kSignals) kj::UnixEventPort::captureSignal(number);
  return kj::setupAsyncIo();
}

}  // namespace

EventLoop::Impl::Impl() : io(CaptureSignalsAndSetUp()), signalled(nullptr) {
  kj::Promise<siginfo_t> any = io.unixEventPort.onSignal(kSignals[0]);
  for (const int number : {kSignals[1], kSignals[2]}) {
    any = any.exclusiveJoin(io.unixEventPort.onSignal(number));
  }
  signalled = any.then([this](siginfo_t info) { signal = info.si_signo; }).fork();
}

absl::Status EventLoop::Run(Clock::Duration duration) {
  if (impl_->signal == 0) {
    auto wait = impl_->Delay(duration).exclusiveJoin(impl_->signalled.addBranch());
    const absl::Status status = CatchKj([&] { wait.wait(impl_->io.waitScope); });
    if (!status.ok()) return status;
  }
  return impl_->signal == 0 ? absl::OkStatus() : absl::CancelledError("interrupted");
}

int EventLoop::signal() const { return impl_->signal; }

int WithEventLoop(const std::function<int(EventLoop&)>& body) {
  // KJ would print on stderr what a peer made it throw; our own messages say it better.
  int result = 0;
  WithoutKjLog([&] {
    EventLoop::Impl impl;
    EventLoop loop(&impl);
    result = body(loop);
  });
  return result;
}

}  // namespace palimpsest::cli
