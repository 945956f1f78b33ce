# SPDX-License-Identifier: Apache-2.0
# The control plane between a decode worker and a store shard. This file is the protocol's document.
#
# A worker connects (Cap'n Proto, two-party, level 1), takes the bootstrap object `KvStore` and
# opens one session. For each sequence it serves it registers a snapshot, then streams numbered
# reports of what was sealed; the shard answers with numbered plans through the worker's
# `PlanSink`; the worker applies a plan at its next group boundary and acknowledges it. No page byte
# travels here, and no decode step waits for an answer.
#
# Identity. A *handle* names a registration within its session and means nothing elsewhere. A handle
# that is unknown, released or another session's gets one and the same answer, `notFound`.
#
# Order and loss. Reports of a sequence are numbered 1, 2, 3 ...; plans likewise, and their numbers
# go on rising through re-registrations. A number at or below the last one is a duplicate: dropped
# without effect. A report number that leaves a gap makes the shard forget what it knew: it
# plans nothing more for the sequence and asks for a snapshot (`PlanBatch.needsSnapshot`). The
# worker answers by registering the sequence again; that replaces the registration.
#
# The shard counts a plan's anneals as done from the moment it decides them, so that the next plan
# builds on it. An acknowledgement that says otherwise makes it ask for a snapshot.
#
# Epochs. Each sequence is in one of 1024 partitions:
#   h = FNV-1a, 64 bit, over the tenant's bytes, one zero byte, and the sequence id as 8 bytes,
#       least significant first
#   partition = (h xor (h >> 32)) mod 1024
# A partition has one owner under an epoch, which only rises. Every report, plan and acknowledgement
# is stamped with both. The shard answers another epoch than its own with `staleEpoch{current}`
# and changes nothing; the worker drops such a plan. A worker never accepts a session whose epoch is
# lower than one it has seen from the same shard.
#
# Life and death. Both sides send heartbeats at the interval agreed at `open`. Whoever hears nothing
# (any message counts) for three intervals closes the connection. When the connection ends, or the
# `Session` capability is dropped, the shard frees every sequence of the session at once. Nothing
# survives that: the worker's state is the truth, and it registers again.
#
# Time. Only lengths are compared, never clocks: what a worker calls `sentAt` comes back to it as
# `echoSentAt`, and only the worker looks at it.
@0xb7c9d1e35f8a2046;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("palimpsest::wire");

using Types = import "types.capnp";

const protocolVersion :UInt32 = 1;
# The version this file describes.

const partitionCount :UInt16 = 1024;

interface KvStore {
  # The bootstrap object of a shard. A connection on which no call completes within 5 s is closed.

  open @0 (hello :Hello, sink :PlanSink) -> (result :OpenResult);
  # Opens the connection's session. One a connection: a second call is refused (`limit`).

  status @1 (request :StatusRequest) -> (result :StatusResult);
  # What `palimpsest status` shows. Changes nothing.
}

struct Hello {
  protocolVersion @0 :UInt32;
  # The newest version the worker speaks; it must be at least the store's oldest.
  workerName @1 :Text;
  # For people: logs and status. 1 to 128 of A-Z a-z 0-9 . _ : @ -
  workerIncarnation @2 :UInt64;
  # Random at the worker's start, not 0. A second session of one incarnation supersedes the first.
  credential @3 :Text;
  # May be empty where the store asks for none (loopback).
  heartbeatMs @4 :UInt32;
  # The interval the worker wants, 10 to 60,000.
}

struct OpenResult {
  union {
    refusal @0 :Types.Refusal;
    session :group {
      capability @1 :Session;
      # Holding it keeps the session open.
      protocolVersion @2 :UInt32;
      # What both speak from here on.
      epoch @3 :UInt64;
      # The epoch of the shard's partitions.
      heartbeatMs @4 :UInt32;
      # The interval both use: the longer of what the two sides want.
      sequencesMax @5 :UInt32;
      # How many sequences the session may register.
    }
  }
}

interface Session {
  register @0 (snapshot :Snapshot) -> (result :RegisterResult);
  # Makes a sequence known, or known again. Registering an id the session already holds replaces the
  # registration; the old handle is gone.

  report @1 (batch :ReportBatch) -> stream;
  # Per sequence in the order of their numbers. Answers come through the sink.

  acknowledge @2 (batch :AckBatch) -> stream;

  heartbeat @3 (nonce :UInt64) -> (nonce :UInt64, epoch :UInt64);
  # Answers with the nonce given, and the shard's epoch.
}

interface Sequence {
  # A registered sequence. Dropping the capability frees it in the directory. It has no methods yet:
  # holding it is the point.
}

struct Snapshot {
  # Everything a shard needs in order to plan for a sequence.
  sequence @0 :UInt64;
  # Chosen by the worker, unique within its incarnation.
  tenant @1 :Text;
  # 1 to 128 of A-Z a-z 0-9 . _ : @ -
  policy @2 :Types.PolicySpec;
  segments @3 :List(Types.Segment);
  # Oldest first, contiguous from position 0. At most 16,384.
  lastReport @4 :UInt64;
  # The last report the segments include. The next one is lastReport + 1.
  lastPlan @5 :UInt64;
  # The highest plan number the worker has seen for this sequence. The next one is higher.
}

struct RegisterResult {
  union {
    refusal @0 :Types.Refusal;
    sequence :group {
      capability @1 :Sequence;
      handle @2 :UInt32;
      # Names the registration in reports, plans and acknowledgements.
      partition @3 :UInt16;
      epoch @4 :UInt64;
      # The stamp of the reports and acknowledgements to come.
    }
  }
}

struct ReportBatch {
  reports @0 :List(Report);
  # At most 1,024.
}

struct Report {
  # What happened to a sequence since the report before: a group boundary was reached.
  handle @0 :UInt32;
  partition @1 :UInt16;
  epoch @2 :UInt64;
  number @3 :UInt64;
  sealed @4 :List(Types.SealedRun);
  # Oldest first. At most 16,384.
  refresh @5 :Bool;
  # A window ended with the last of them: the shard decides the label of the next one.
  sparsity @6 :List(Float32);
  # At a refresh, if the policy wants it: one value in [0, 1] per calibrated layer. Else empty.
  wantsAnswer @7 :Bool;
  # Lockstep: answer even with an empty plan.
  sentAt @8 :Int64;
  # The worker's monotonic clock, ns. Echoed, never interpreted.
}

struct AckBatch {
  acks @0 :List(Ack);
  # At most 1,024.
}

struct Ack {
  # A plan has been carried out. Required for a plan with anneals, allowed for any. Idempotent.
  handle @0 :UInt32;
  partition @1 :UInt16;
  epoch @2 :UInt64;
  planNumber @3 :UInt64;
  applied @4 :List(Types.Anneal);
  # With `keep` = the count each segment has now. At most 16,384.
  lagNs @5 :Int64;
  # From sending the report to holding its plan, by the worker's clock; negative: not measured.
}

interface PlanSink {
  # Exported by the worker for the life of its session.

  push @0 (batch :PlanBatch) -> stream;

  heartbeat @1 (nonce :UInt64) -> (nonce :UInt64);

  close @2 (reason :Types.Refusal) -> ();
  # The shard ends the session, and says why. The connection is closed after it.
}

struct PlanBatch {
  plans @0 :List(Plan);
  # At most 1,024.
  needsSnapshot @1 :List(UInt32);
  # Handles whose reports left a gap, or whose counts do not agree. At most 65,536.
  refusals @2 :List(ReportRefusal);
  # At most 1,024; more in the same moment are only counted.
}

struct Plan {
  # The answer to a report, or to several at once: plans not yet sent are merged, so that a slow
  # worker gets one plan with the newest label and every anneal.
  handle @0 :UInt32;
  partition @1 :UInt16;
  epoch @2 :UInt64;
  planNumber @3 :UInt64;
  reportNumber @4 :UInt64;
  # The newest report it answers.
  nextLabel :union {
    # The label of the window after that report.
    unchanged @5 :Void;
    thought @6 :Types.Thought;
  }
  anneals @7 :List(Types.Anneal);
  # In the order to be applied. At most 16,384.
  echoSentAt @8 :Int64;
  # `sentAt` of that report.
}

struct ReportRefusal {
  # A report or an acknowledgement that had no effect.
  handle @0 :UInt32;
  number @1 :UInt64;
  # The report's, or the plan's that was acknowledged.
  refusal @2 :Types.Refusal;
}

struct StatusRequest {
  credential @0 :Text;
  sequencesMax @1 :UInt32;
  # How many sequences to list, at most 1,000; 0: none.
  cursor @2 :UInt64;
  # 0, or `nextCursor` of the answer before.
  tenant @3 :Text;
  # List this tenant's sequences only; empty: everybody's.
}

struct StatusResult {
  union {
    refusal @0 :Types.Refusal;
    status @1 :StoreStatus;
  }
}

struct StoreStatus {
  version @0 :Text;
  # Of the program.
  epoch @1 :UInt64;
  uptimeMs @2 :UInt64;
  draining @3 :Bool;
  partitionsOwned @4 :UInt16;
  sessions @5 :List(SessionStatus);
  # At most 256.
  sequenceCount @6 :UInt64;
  sequenceMax @7 :UInt64;
  tenants @8 :List(NamedCount);
  # Sequences by tenant, largest first, the first 64.
  policies @9 :List(NamedCount);
  # Sequences by policy, largest first, the first 64.
  reportsAccepted @10 :UInt64;
  reportsDuplicate @11 :UInt64;
  reportsStale @12 :UInt64;
  # Of another epoch, or after a gap.
  reportsInvalid @13 :UInt64;
  reportGaps @14 :UInt64;
  plansIssued @15 :UInt64;
  plansAcknowledged @16 :UInt64;
  plansCoalesced @17 :UInt64;
  # Merged into a later one before they were sent.
  sessionsExpired @18 :UInt64;
  planLag @19 :Quantiles;
  # Report sent to plan received, as workers measured it.
  ackLag @20 :Quantiles;
  # Plan issued to plan acknowledged, as the shard measured it.
  sequences @21 :List(SequenceStatus);
  # As asked for, by ascending cursor.
  nextCursor @22 :UInt64;
  # 0: the list is complete.
}

struct SessionStatus {
  workerName @0 :Text;
  workerIncarnation @1 :UInt64;
  sequences @2 :UInt32;
  silentMs @3 :UInt64;
  # Since the last message of any kind.
  heartbeatMs @4 :UInt32;
  plansQueued @5 :UInt32;
  offences @6 :UInt32;
}

struct NamedCount {
  name @0 :Text;
  count @1 :UInt64;
}

struct Quantiles {
  # Over the last 4,096 samples. All zero when count is.
  count @0 :UInt64;
  p50Ns @1 :UInt64;
  p90Ns @2 :UInt64;
  p99Ns @3 :UInt64;
  maxNs @4 :UInt64;
}

struct SequenceStatus {
  sequence @0 :UInt64;
  tenant @1 :Text;
  policy @2 :Text;
  workerName @3 :Text;
  partition @4 :UInt16;
  segments @5 :UInt32;
  sealedTokens @6 :UInt64;
  liveTokens @7 :UInt64;
  # Of a lane, prompt apart, as planned.
  budgetTokens @8 :UInt32;
  lastReport @9 :UInt64;
  lastPlan @10 :UInt64;
  plansUnacknowledged @11 :UInt32;
  needsSnapshot @12 :Bool;
  label @13 :Types.Thought;
  # Of the newest window.
}
