// SPDX-License-Identifier: Apache-2.0
// The decode worker's side of the control plane: a ControlPlane that speaks proto/kvstore.capnp.
//
// A thread of its own runs the network, so that no call made by the engine ever waits for it: what
// the engine says goes into a bounded queue, what the store says waits in a bounded mailbox. When a
// bound is met, or the store is away, reports are dropped and counted, and the sequence comes up in
// NeedsSnapshot() as soon as the store answers.
//
// The client connects with jittered back-off and sends heartbeats. A store that is silent for three
// intervals (crashed, stopped, cut off) is dropped and connected to again.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "services/decode/control_plane.h"

namespace palimpsest {

// Why something was dropped; each is a label of a metric.
enum class StoreClientDrop : uint8_t {
  kReportAway,       // report or acknowledgement while the store does not know the sequence
  kReportQueueFull,  // the queue to the network thread was full
  kPlanMailboxFull,  // the engine does not Poll
  kPlanDuplicate,    // a plan number seen before
  kPlanStale,        // of another epoch, or of a registration that was replaced
  kPlanInvalid,      // breaks the protocol
};
inline constexpr int kStoreClientDropCount = 6;
std::string_view Name(StoreClientDrop drop);

// What the client can tell a metric or a log. Called on the engine's and on the network thread, so
// an implementation is thread-safe and quick.
class StoreClientObserver {
 public:
  virtual ~StoreClientObserver() = default;
  // `why` is one line: the reason of the last disconnection, or empty.
  virtual void OnState(StoreState state, std::string_view why) = 0;
  virtual void OnDrop(StoreClientDrop drop, uint64_t count) = 0;
  virtual void OnPlanLag(std::chrono::nanoseconds report_to_plan) = 0;
  virtual void OnHeartbeat(std::chrono::nanoseconds round_trip) = 0;
};

struct StoreClientOptions {
  std::string endpoint{};  // "host:port", "127.0.0.1:7401"; or "unix:/path"
  std::string worker_name = "worker";
  uint64_t incarnation = 0;                   // 0: drawn at random
  std::string credential{};                   // empty where the store asks for none
  std::chrono::milliseconds heartbeat{1000};  // 10 ms to 60 s; the store may ask for longer
  size_t queue_items_max = 8192;    // reports and acknowledgements waiting for the network
  size_t mailbox_plans_max = 8192;  // plans waiting for Poll
  std::chrono::milliseconds backoff_min{50};
  std::chrono::milliseconds backoff_max{5000};
  std::chrono::milliseconds shutdown_deadline{500};  // for what is still queued at destruction
  StoreClientObserver* observer = nullptr;           // optional; outlives the client
};

// Starts connecting at once. `options.endpoint` must be given; a bad one is reported to the
// observer and tried again, as an absent store is. The destructor returns within
// `shutdown_deadline` and a little; the store then frees every sequence of this worker.
std::unique_ptr<ControlPlane> NewStoreClient(StoreClientOptions options);

}  // namespace palimpsest
