# SPDX-License-Identifier: Apache-2.0
# What every service says the same way: thoughts, formats, policies, segments, refusals.
#
# Rules that hold for every message:
# * A message has at most 64 segments, 4 MiB and 16 levels of nesting. A larger one is refused from
#   its header alone and the connection is closed.
# * A Text has at most 256 bytes. Every List has a bound, stated at its field; a longer one is
#   `invalid` and is refused before it is walked.
# * Positions count tokens of a sequence from 0, prompt included.
# * Fields are only ever added. A reader ignores what it does not know; an enumerant or a union
#   member it does not know is `invalid`.
@0xe2f1c5a84b0d9367;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("palimpsest::wire");

enum Thought {
  # The kind of a window of thought (ThinKV, section 3). Importance rises with the number.
  transition @0;
  execution @1;
  reasoning @2;
}

enum Format {
  # How one number of K or V is stored.
  bf16 @0;
  fp8 @1;      # E4M3
  nvfp4 @2;    # E2M1, one E4M3 scale for 16 channels
  ternary @3;  # 2 bits
  int4 @4;     # -7 to 7, one E4M3 scale for 16 channels
}

struct PageFormat {
  # K and V of a page may be stored differently.
  k @0 :Format;
  v @1 :Format;
}

struct ClassFormats {
  # Which format each class of thought is written in. All three are required.
  transition @0 :PageFormat;
  execution @1 :PageFormat;
  reasoning @2 :PageFormat;
}

struct PolicySpec {
  # The policy of one sequence. The store refuses a spec its policy library does not accept
  # (`invalid`, naming the field). Between a worker and a store every field is set. In a request an
  # empty text, an empty list, 0 and null formats leave a field out: Request.policy in decode.capnp
  # says what is taken instead.
  name @0 :Text;
  # One of the policies the store knows, e.g. "thinkv".
  budgetTokens @1 :UInt32;
  # Live tokens of a lane (layer, KV head) on average, prompt and open group apart.
  windowTokens @2 :UInt32;
  # Tokens between refreshes; a multiple of 16. 0: what suits the budget (an eighth of it, from 16 to
  # 128), and so between a worker and a store too.
  retention @3 :List(UInt32);
  # Live counts a segment is lowered through, strictly falling. At most 64.
  formats @4 :ClassFormats;
  sparsityLayers @5 :List(UInt32);
  # The calibrated layers, ascending. At most 64. A refresh carries one value for each.
  theta @6 :List(Float32);
  # None or two thresholds in [0, 1], ascending.
}

struct Segment {
  # A run of tokens with one label.
  firstPosition @0 :UInt32;
  # Names the segment within its sequence.
  tokenCount @1 :UInt32;
  # Positions covered, live or not.
  liveCount @2 :UInt32;
  # Live tokens of a (layer, KV head) on average, rounded up. At most tokenCount.
  label @3 :Thought;
  demotions @4 :UInt8;
  # How often the retention schedule lowered it.
  pinned @5 :Bool;
  # The prompt: never annealed.
}

struct SealedRun {
  # Tokens sealed since the report before, with one label.
  tokenCount @0 :UInt32;
  # At least 1.
  label @1 :Thought;
  pinned @2 :Bool;
  startsWindow @3 :Bool;
  # The first tokens after a refresh.
}

struct Anneal {
  # Lower the segment that starts at firstPosition to `keep` live tokens. In an acknowledgement:
  # the count the segment has now.
  firstPosition @0 :UInt32;
  keep @1 :UInt32;
  demotions @2 :UInt8;
  # The segment's count of demotions afterwards.
}

struct Refusal {
  # Why something asked for was not done. A refusal is an answer, not an exception: a peer that gets
  # one knows that nothing was changed.
  text @0 :Text;
  # One line for a person. Never parsed.
  retryAfterMs @1 :UInt32;
  # When asking again may help; 0: asking the same again never will.

  union {
    unspecified @2 :Void;
    unsupportedVersion :group {
      # The two sides share no protocol version. These are the answering side's.
      oldest @3 :UInt32;
      newest @4 :UInt32;
    }
    unauthorized @5 :Void;
    # The credential is missing or wrong. Which of the two is not said.
    draining @6 :Void;
    # The process is about to end and takes nothing new.
    limit :group {
      # A bound of this process, session or tenant is reached.
      maximum @7 :UInt64;
    }
    staleEpoch :group {
      # The message is stamped with another epoch than the partition has here.
      current @8 :UInt64;
    }
    notOwner :group {
      # The partition belongs to another shard.
      partition @9 :UInt16;
    }
    notFound @10 :Void;
    # No such sequence in this session. The same answer for one that never was, one that was
    # released and one of somebody else.
    invalid @11 :Void;
    # The message breaks its own rules: a list too long, a number that is no number.
    conflict @12 :Void;
    # A number used before, with other content.
    superseded @13 :Void;
    # The same worker incarnation has opened a newer session.
    expired @14 :Void;
    # Nothing was heard from the peer for three heartbeats.
    offences @15 :Void;
    # Too many invalid messages; the session was closed.
  }
}
