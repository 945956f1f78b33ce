# SPDX-License-Identifier: Apache-2.0
@0xd1b7c3a94e5f2086;
# The protocol between clients and a decode worker: chains of thought in, tokens out.
#
# A client connects and gets `Decode` as the bootstrap capability. It submits a batch of requests
# together with a sink it implements; the worker pushes tokens into the sink as they are generated.
# Dropping the returned `Generation` cancels what has not finished.
#
# No page byte travels here. Limits of common/base/limits.h hold for every list and text.

using Cxx = import "/capnp/c++.capnp";
using Types = import "types.capnp";
$Cxx.namespace("palimpsest::wire");

interface Decode {
  generate @0 (requests :List(Request), sink :TokenSink)
      -> (admissions :List(Admission), generation :Generation);
  # Submits all requests at once: those that are admitted enter the batch together, in order, so
  # that equal submissions run equally. One admission a request, in the same order.

  status @1 () -> (status :WorkerStatus);
  # A snapshot of the worker, at most a step old. Cheap; meant to be polled.
}

interface Generation {}
# The submitter's hold on its requests. Dropping it, or losing the connection, cancels them.

interface TokenSink {
  push @0 (events :List(TokenEvent)) -> stream;
}

struct Request {
  tenant @0 :Text;
  # Empty means "default".
  prompt @1 :List(Int32);
  # Token ids, at least one.
  maxNewTokens @2 :UInt32;
  # At least 1. Prompt and new tokens together must fit the model's positions.
  stopTokens @3 :List(Int32);
  # A generated token of this list ends the chain and is part of it. Empty: the model's own.
  sampling @4 :Sampling;
  policy @5 :Types.PolicySpec;
  # May be null or leave fields out. Where it names no policy, what it leaves out is as in the
  # default of its tenant, or else of the worker; where it names one, as in that policy's own
  # default. A calibration that is left out is the model's.
}

struct Sampling {
  temperature @0 :Float32;
  # 0 is greedy; the fields below are then ignored.
  topK @1 :UInt32;
  # 0: no limit.
  topP @2 :Float32 = 1.0;
  minP @3 :Float32;
  seed @4 :UInt64;
  # Equal seeds give equal tokens, whatever else is in the batch.
}

struct Admission {
  union {
    request @0 :UInt64;
    # Admitted, or waiting for room: its events carry this number.
    refusal @1 :Types.Refusal;
  }
}

struct TokenEvent {
  request @0 :UInt64;
  tokens @1 :List(Int32);
  # Generated since the event before, oldest first.
  finished @2 :Finished;
  # Null until the chain ends; it is then the last event of the request.
}

enum FinishReason {
  stop @0;
  # A stop token was generated.
  length @1;
  # maxNewTokens were generated.
  cancelled @2;
  error @3;
  # `error` says why; tokens generated before stand.
}

struct Finished {
  reason @0 :FinishReason;
  error @1 :Types.Refusal;
  # With reason `error`.
  stats @2 :RequestStats;
}

struct RequestStats {
  # Bytes are all bytes of the sequence: pages (data, scales, positions, masks, holes), open group
  # and block tables. "Full" is K and V of the same tokens in bf16 and nothing else.
  promptTokens @0 :UInt32;
  newTokens @1 :UInt32;
  footprintByteSteps @2 :UInt64;
  # Footprint summed over the chain's steps; divided by fullByteSteps it is the mean share.
  fullByteSteps @3 :UInt64;
  footprintBytesPeak @4 :UInt64;
  fullBytesEnd @5 :UInt64;
  plansApplied @6 :UInt32;
  plansLocal @7 :UInt32;
  # Of them, made by the worker itself because the store was away or the pool full.
  planLagSecondsSum @8 :Float64;
  # From sending a report to applying its plan, over the plans that came from the store.
  planLagSecondsMax @9 :Float64;
  planLagTokensMax @10 :UInt32;
  pressureReliefs @11 :UInt32;
  planHash @12 :UInt64;
  # Over every plan applied, in order.
  timeline @13 :Text;
  # One letter a window: R, E or T.
  liveTokenSteps @14 :UInt64;
  # Live tokens of a lane, prompt and open group included, summed over the chain's steps.
  steps @15 :UInt32;
  liveTokensPeak @16 :UInt32;
}

struct WorkerStatus {
  name @0 :Text;
  version @1 :Text;
  uptimeSeconds @2 :Float64;
  model @3 :ModelInfo;
  storeState @4 :StoreState;
  storeEndpoint @5 :Text;
  lockstep @6 :Bool;
  draining @7 :Bool;
  sequencesRunning @8 :UInt32;
  sequencesWaiting @9 :UInt32;
  tokensDecoded @10 :UInt64;
  # Counters since start; a client that polls makes rates of them.
  tokensPrefilled @11 :UInt64;
  steps @12 :UInt64;
  decodeSeconds @13 :Float64;
  # Time spent inside steps.
  pool @14 :PoolStatus;
  chains @15 :List(ChainStatus);
  # Running ones, at most 1024.
  reregistrations @16 :UInt64;
  # Sequences registered again because the store had lost them, or a plan was made without it.
  defaultPolicy @17 :Types.PolicySpec;
  # Of requests that name none, for tenants without a default of their own. Null: not told.
  keysRotated @18 :Bool;
  # Keys are stored, and queries meet them, after a Hadamard transform of each head.

  enum StoreState {
    none @0;
    # This worker was started without a store and plans by itself.
    connecting @1;
    connected @2;
  }
}

struct ModelInfo {
  family @0 :Text;
  path @1 :Text;
  synthetic @2 :Bool;
  # Random weights: good for speed, not for answers.
  layers @3 :UInt32;
  kvHeads @4 :UInt32;
  headDim @5 :UInt32;
  vocabSize @6 :UInt32;
  maxPositions @7 :UInt32;
  # Tokens a chain may have, prompt included; 0: not told.
}

struct PoolStatus {
  capacityBytes @0 :UInt64;
  usedBytes @1 :UInt64;
  # Whole frames, slack included.
  pageBytes @2 :UInt64;
  # Pages in use.
  footprintBytes @3 :UInt64;
  # Sum over sequences: pages, open groups, block tables.
  fullBytes @4 :UInt64;
  # What the same tokens would take in the full bf16 cache.
  pagesByFormat @5 :List(UInt64);
  # By the format of K: bf16, fp8, nvfp4, ternary, int4.
  usedByteSteps @6 :UInt64;
  # usedBytes plus open groups and tables, summed over steps since start.
  fullByteSteps @7 :UInt64;
}

struct ChainStatus {
  request @0 :UInt64;
  tenant @1 :Text;
  policy @2 :Text;
  budgetTokens @3 :UInt32;
  tokens @4 :UInt32;
  promptTokens @5 :UInt32;
  liveTokens @6 :UInt32;
  footprintBytes @7 :UInt64;
  fullBytes @8 :UInt64;
  timeline @9 :Text;
  # Its last 256 windows, one letter each.
  label @10 :Text;
  # Of the window being written.
}
