// SPDX-License-Identifier: Apache-2.0
#include "common/rpc/rpc_connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <utility>

#include "common/base/limits.h"

namespace palimpsest {
namespace {

void SetOption(int fd, int level, int option, int value) {
  // Not every socket has every option (unix sockets have no TCP_NODELAY); none is needed for truth.
  [[maybe_unused]] const int result = ::setsockopt(fd, level, option, &value, sizeof value);
}

kj::Own<kj::AsyncIoStream> Configured(kj::Own<kj::AsyncIoStream> socket) {
  KJ_IF_MAYBE (fd, socket->getFd()) {
    SetOption(*fd, IPPROTO_TCP, TCP_NODELAY, 1);
    SetOption(*fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    SetOption(*fd, IPPROTO_TCP, TCP_KEEPIDLE, 30);
    SetOption(*fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    SetOption(*fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
  }
  return socket;
}

}  // namespace

capnp::ReaderOptions RpcReaderOptions() {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = limits::kTraversalWordsMax;
  options.nestingLimit = limits::kNestingMax;
  return options;
}

RpcConnection::RpcConnection(kj::Own<kj::AsyncIoStream> socket, capnp::rpc::twoparty::Side side,
                             kj::Maybe<capnp::Capability::Client> bootstrap,
                             std::function<void(FramingError)> on_refused)
    : stream_(NewFramingGuard(Configured(kj::mv(socket)), std::move(on_refused))),
      network_(*stream_, side, RpcReaderOptions()),
      system_(network_, kj::mv(bootstrap)) {
  system_.setFlowLimit(limits::kUnansweredWordsMax);
}

capnp::Capability::Client RpcConnection::PeerBootstrap() {
  capnp::MallocMessageBuilder message(4);
  auto id = message.initRoot<capnp::rpc::twoparty::VatId>();
  id.setSide(network_.getSide() == capnp::rpc::twoparty::Side::CLIENT
                 ? capnp::rpc::twoparty::Side::SERVER
                 : capnp::rpc::twoparty::Side::CLIENT);
  return system_.bootstrap(id);
}

RpcListener::RpcListener(kj::Own<kj::ConnectionReceiver> receiver, kj::Timer& timer,
                         uint32_t connections_max, Serve serve, std::function<void()> on_limit)
    : receiver_(kj::mv(receiver)),
      timer_(timer),
      connections_max_(connections_max),
      serve_(std::move(serve)),
      on_limit_(std::move(on_limit)),
      tasks_(*this) {}

kj::Promise<void> RpcListener::Run() {
  return receiver_->accept()
      .then(
          [this](kj::Own<kj::AsyncIoStream> socket) -> kj::Promise<void> {
            Accepted(kj::mv(socket));
            return kj::READY_NOW;
          },
          [this](kj::Exception&&) -> kj::Promise<void> {
            // Out of file descriptors, most likely: existing connections go on meanwhile.
            return timer_.afterDelay(100 * kj::MILLISECONDS);
          })
      .then([this] { return Run(); });
}

void RpcListener::Accepted(kj::Own<kj::AsyncIoStream> socket) {
  if (connection_count_ >= connections_max_) {
    on_limit_();
    return;
  }
  ++connection_count_;
  tasks_.add(kj::evalNow([&] {
               return serve_(kj::mv(socket));
             }).attach(kj::defer([this] { --connection_count_; })));
}

void RpcListener::taskFailed(kj::Exception&&) {}  // one connection's end is no event here

}  // namespace palimpsest
