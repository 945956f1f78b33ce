// SPDX-License-Identifier: Apache-2.0
#include "services/cli/client/peer.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace palimpsest::cli {
namespace {

std::string Where(const PeerRole& role, const Endpoint& endpoint) {
  return absl::StrCat(role.noun, " ", FormatEndpoint(endpoint));
}

absl::Status ExplainConnect(const absl::Status& status, const PeerRole& role,
                            const Endpoint& endpoint, Clock::Duration timeout) {
  const std::string where = Where(role, endpoint);
  if (absl::IsCancelled(status)) return status;
  if (absl::IsDeadlineExceeded(status)) {
    return absl::DeadlineExceededError(
        absl::StrCat(where, ": no connection within ", FormatDuration(timeout),
                     ". Is the address right, and the network open?"));
  }
  const absl::string_view text = status.message();
  if (absl::StrContains(text, "refused")) {
    return absl::UnavailableError(absl::StrCat(where, ": nothing listens there. Start ",
                                               role.program, ", or give its address as ", role.flag,
                                               " HOST:PORT"));
  }
  if (absl::StrContains(text, "DNS") || absl::StrContains(text, "getaddrinfo") ||
      absl::StrContains(text, "parse") || absl::StrContains(text, "resolve")) {
    return absl::UnavailableError(
        absl::StrCat(where, ": the name ", endpoint.host, " is not known. Check its spelling"));
  }
  return absl::UnavailableError(absl::StrCat(where, ": cannot connect: ", text));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RpcConnection>> ConnectPeer(EventLoop* loop, const PeerRole& role,
                                                           const Endpoint& endpoint,
                                                           Clock::Duration timeout) {
  EventLoop::Impl& impl = loop->impl();
  const std::string host =
      absl::StrContains(endpoint.host, ':') ? absl::StrCat("[", endpoint.host, "]") : endpoint.host;
  kj::Network& network = impl.io.provider->getNetwork();
  auto connecting = kj::evalNow([&] {
    return network.parseAddress(host.c_str(), endpoint.port)
        .then([](kj::Own<kj::NetworkAddress> address) {
          auto connected = address->connect();
          return connected.attach(kj::mv(address));
        });
  });
  auto socket = impl.Wait(kj::mv(connecting), timeout);
  if (!socket.ok()) return ExplainConnect(socket.status(), role, endpoint, timeout);
  return std::make_unique<RpcConnection>(*std::move(socket), capnp::rpc::twoparty::Side::CLIENT,
                                         nullptr, nullptr);
}

absl::Status ExplainFirstCall(const absl::Status& status, const PeerRole& role,
                              const Endpoint& endpoint, Clock::Duration timeout) {
  const std::string where = Where(role, endpoint);
  if (absl::IsCancelled(status) || absl::IsInvalidArgument(status)) return status;
  if (absl::IsDeadlineExceeded(status)) {
    return absl::DeadlineExceededError(
        absl::StrCat(where, ": accepts connections, but stayed silent for ",
                     FormatDuration(timeout), ". Is this the RPC port, and the process alive?"));
  }
  if (absl::IsUnimplemented(status)) {
    return absl::FailedPreconditionError(absl::StrCat(
        where, ": is no ", role.program, ", but another kind of process (", role.other, ")"));
  }
  if (absl::IsUnavailable(status)) {
    return absl::UnavailableError(absl::StrCat(where, ": hung up without an answer. Is it a ",
                                               role.program,
                                               "? Its metrics port speaks another protocol"));
  }
  return absl::UnavailableError(
      absl::StrCat(where, ": does not speak this protocol (", status.message(),
                   "). Is it another program's port, or the metrics port? ", role.program,
                   " prints the right one as 'listening on'"));
}

absl::Status ExplainLaterCall(const absl::Status& status, const PeerRole& role,
                              const Endpoint& endpoint, Clock::Duration timeout) {
  const std::string where = Where(role, endpoint);
  if (absl::IsCancelled(status) || absl::IsInvalidArgument(status)) return status;
  if (absl::IsDeadlineExceeded(status)) {
    return absl::DeadlineExceededError(
        absl::StrCat(where, ": gave no answer within ", FormatDuration(timeout),
                     ". Is it stopped, or overloaded? --timeout allows more"));
  }
  if (absl::IsUnavailable(status)) {
    return absl::UnavailableError(
        absl::StrCat(where, ": the connection is lost (", status.message(), "). Its log says why"));
  }
  return absl::Status(status.code(), absl::StrCat(where, ": ", status.message()));
}

}  // namespace palimpsest::cli
