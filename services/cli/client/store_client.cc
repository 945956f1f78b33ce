// SPDX-License-Identifier: Apache-2.0
#include "services/cli/client/store_client.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "common/rpc/wire.h"
#include "services/cli/client/peer.h"

namespace palimpsest::cli {
namespace {

absl::Status Refused(const Refusal& refusal, const Endpoint& endpoint) {
  const std::string text =
      absl::StrCat("store ", FormatEndpoint(endpoint), ": refused: ", Escaped(ToString(refusal)));
  if (refusal.code == Refusal::Code::kUnauthorized) {
    return absl::PermissionDeniedError(
        absl::StrCat(text, ". Set PALIMPSEST_CREDENTIAL to the store's credential"));
  }
  return absl::FailedPreconditionError(text);
}

}  // namespace

absl::StatusOr<StoreStatus> AskStore(EventLoop* loop, const Endpoint& endpoint,
                                     const StatusQuery& query, Clock::Duration timeout) {
  KV_ASSIGN_OR_RETURN(auto connection, ConnectPeer(loop, kStoreRole, endpoint, timeout));
  auto call = connection->PeerBootstrap().castAs<wire::KvStore>().statusRequest();
  Write(query, call.initRequest());
  auto response = loop->impl().Wait(
      kj::Promise<capnp::Response<wire::KvStore::StatusResults>>(call.send()), timeout);
  if (!response.ok()) return ExplainFirstCall(response.status(), kStoreRole, endpoint, timeout);
  absl::StatusOr<StoreStatus> status = absl::UnknownError("");
  KV_RETURN_IF_ERROR(CatchKj([&] {
    const auto result = response->getResult();
    status = result.isStatus() ? ReadStoreStatus(result.getStatus())
                               : Refused(ReadRefusal(result.getRefusal()), endpoint);
  }));
  return status;
}

}  // namespace palimpsest::cli
