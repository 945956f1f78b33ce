// SPDX-License-Identifier: Apache-2.0
// Every bound on what comes from outside, in one place; each has a test that crosses it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace palimpsest::limits {

// Control plane, per message (checked by the framing guard before Cap'n Proto reads a word).
inline constexpr size_t kMessageBytesMax = 4u << 20;
inline constexpr uint32_t kSegmentsMax = 64;
inline constexpr int kNestingMax = 16;
inline constexpr uint64_t kTraversalWordsMax = 2u << 20;
inline constexpr size_t kUnansweredWordsMax = 2u << 20;  // setFlowLimit of a connection
inline constexpr size_t kTextBytesMax = 256;

// Lists inside messages, checked before any loop or reserve.
inline constexpr uint32_t kReportsPerBatchMax = 1024;
inline constexpr uint32_t kSegmentsPerSequenceMax = 16384;
inline constexpr uint32_t kSparsityLayersMax = 64;
inline constexpr uint32_t kAnnealsPerPlanMax = kSegmentsPerSequenceMax;
inline constexpr uint32_t kPromptTokensMax = 1u << 20;
inline constexpr uint32_t kStopTokensMax = 16;
inline constexpr uint32_t kRequestsPerBatchMax = 1024;

// Per session and per process.
inline constexpr uint32_t kSequencesPerSessionMax = 65536;
inline constexpr uint32_t kConnectionsMax = 256;
inline constexpr uint32_t kInvalidReportsMax = 16;  // offences before a session is closed
inline constexpr uint32_t kPositionMax = 1u << 24;

// Time.
inline constexpr std::chrono::seconds kHandshakeTimeout{5};

}  // namespace palimpsest::limits
