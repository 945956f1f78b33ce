// SPDX-License-Identifier: Apache-2.0
// Between the schema's readers and builders and the plain values of messages.h.
//
// Reading is where a peer's message is checked for shape: every list against its bound before it is
// walked or room is made for it, every text's length, every enumerant. InvalidArgument says which
// field. What the numbers mean (a sparsity of NaN, segments that overlap) is judged by the engine.
#pragma once

#include "absl/status/statusor.h"
#include "common/policy/policy_choice.h"
#include "common/rpc/messages.h"
#include "proto/kvstore.capnp.h"
#include "proto/types.capnp.h"

namespace palimpsest {

Refusal ReadRefusal(wire::Refusal::Reader reader);  // a peer's text is cut, never refused
absl::StatusOr<PolicySpec> ReadPolicySpec(wire::PolicySpec::Reader reader);
// What a request says of its policy; whatever it leaves out is in order.
absl::StatusOr<PolicyChoice> ReadPolicyChoice(wire::PolicySpec::Reader reader);
absl::StatusOr<HelloMessage> ReadHello(wire::Hello::Reader reader);
absl::StatusOr<SnapshotMessage> ReadSnapshot(wire::Snapshot::Reader reader);
absl::StatusOr<ReportMessage> ReadReport(wire::Report::Reader reader);
absl::StatusOr<PlanMessage> ReadPlan(wire::Plan::Reader reader);
absl::StatusOr<AckMessage> ReadAck(wire::Ack::Reader reader);
absl::StatusOr<StatusQuery> ReadStatusQuery(wire::StatusRequest::Reader reader);
absl::StatusOr<StoreStatus> ReadStoreStatus(wire::StoreStatus::Reader reader);

void Write(const Refusal& refusal, wire::Refusal::Builder builder);
void Write(const PolicySpec& spec, wire::PolicySpec::Builder builder);
void Write(const PolicyChoice& choice, wire::PolicySpec::Builder builder);
void Write(const HelloMessage& hello, wire::Hello::Builder builder);
void Write(const SnapshotMessage& snapshot, wire::Snapshot::Builder builder);
void Write(const ReportMessage& report, wire::Report::Builder builder);
void Write(const PlanMessage& plan, wire::Plan::Builder builder);
void Write(const PlanBatchMessage& batch, wire::PlanBatch::Builder builder);
void Write(const AckMessage& ack, wire::Ack::Builder builder);
void Write(const StatusQuery& query, wire::StatusRequest::Builder builder);
void Write(const StoreStatus& status, wire::StoreStatus::Builder builder);

}  // namespace palimpsest
