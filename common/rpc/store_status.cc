// SPDX-License-Identifier: Apache-2.0
#include "common/rpc/store_status.h"

#include <kj/async-io.h>

#include "absl/strings/str_cat.h"
#include "common/rpc/rpc_connection.h"
#include "common/rpc/rpc_status.h"
#include "common/rpc/wire.h"
#include "proto/kvstore.capnp.h"

namespace palimpsest {
namespace {

absl::StatusOr<StoreStatus> ReadAnswer(wire::StatusResult::Reader result) {
  if (result.isStatus()) return ReadStoreStatus(result.getStatus());
  if (!result.isRefusal()) return absl::InternalError("the store's answer is of an unknown kind");
  const Refusal refusal = ReadRefusal(result.getRefusal());
  if (refusal.code == Refusal::Code::kUnauthorized) {
    return absl::PermissionDeniedError(ToString(refusal));
  }
  return absl::FailedPreconditionError(ToString(refusal));
}

kj::Promise<absl::StatusOr<StoreStatus>> Ask(kj::Own<kj::AsyncIoStream> socket,
                                             const StatusQuery& query) {
  auto connection =
      kj::heap<RpcConnection>(kj::mv(socket), capnp::rpc::twoparty::Side::CLIENT, nullptr, nullptr);
  auto request = connection->PeerBootstrap().castAs<wire::KvStore>().statusRequest();
  Write(query, request.initRequest());
  return request.send()
      .then([](auto&& response) { return ReadAnswer(response.getResult()); })
      .attach(kj::mv(connection));
}

}  // namespace

absl::StatusOr<StoreStatus> FetchStoreStatus(const std::string& endpoint, const StatusQuery& query,
                                             std::chrono::milliseconds deadline) {
  absl::StatusOr<StoreStatus> answer = absl::UnknownError("no answer");
  const absl::Status status = CatchQuietly([&] {
    auto io = kj::setupAsyncIo();
    auto timer = io.provider->getTimer().afterDelay(deadline.count() * kj::MILLISECONDS);
    answer = io.provider->getNetwork()
                 .parseAddress(endpoint.c_str())
                 .then([](kj::Own<kj::NetworkAddress> address) {
                   return address->connect().attach(kj::mv(address));
                 })
                 .then([&query](kj::Own<kj::AsyncIoStream> socket) {
                   return Ask(kj::mv(socket), query);
                 })
                 .exclusiveJoin(timer.then([&]() -> absl::StatusOr<StoreStatus> {
                   return absl::DeadlineExceededError(
                       absl::StrCat(endpoint, " did not answer within ", deadline.count(), " ms"));
                 }))
                 .wait(io.waitScope);
  });
  if (!status.ok()) return status;
  return answer;
}

}  // namespace palimpsest
