// SPDX-License-Identifier: Apache-2.0
// The decode engine: continuous batching over a paged, compressed cache.
//
// One thread owns everything that runs (Step, Run). A step: hear the store, admit what fits, order
// the next tokens of the model in one ragged batch (one token of each decoding chain, a chunk of
// each prompt), and, for chains that reach a group boundary with it, carry out plans, seal the
// group, report, and plan locally where there is no store to do it.
//
// A device is kept a step ahead of the host: a step's tokens are read when the next step has been
// ordered, which takes them from where the device has left them. Nothing else that the engine does
// depends on tokens, but for a chain's end: one that has chosen a stop token has a row in the next
// step too, which is left out of everything; one that has reached its length is known beforehand.
// Refreshes want the step's attention sparsity and wait for that, not for its tokens.
//
// A step never waits for the store, unless Options::lockstep asks for it. When the pool is full a
// chain falls back on its own planner and then on pressure.h; no live chain ends for want of
// a plan. Submit, Cancel, Drain and Snapshot may be called from any thread.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/clock.h"
#include "kernels/backend.h"
#include "services/decode/control_plane.h"
#include "services/decode/engine/boundary.h"
#include "services/decode/engine/chain.h"
#include "services/decode/engine/decode_step.h"
#include "services/decode/engine/request.h"
#include "services/decode/engine/snapshot.h"
#include "services/decode/engine/timed_backend.h"
#include "services/decode/model/model.h"
#include "services/decode/pool/page_pool.h"

namespace palimpsest {

struct EngineOptions {
  uint32_t batch_max = 32;      // chains that run at once; <= BackendConfig::open_groups
  uint32_t waiting_max = 1024;  // admitted chains that wait for room
  bool lockstep = false;        // wait for the store's plan at every group boundary
  std::chrono::milliseconds lockstep_deadline{2000};
  // The model's calibration, for requests that bring none of their own.
  std::vector<uint32_t> sparsity_layers = {};
  std::vector<float> theta = {};
  uint64_t query_bytes = 0;  // what the queries kept of a sequence take (QueryWindowBytes)
  // [layers][KV heads]: how lanes share a budget (QueryCodebook::lane_shares), under policies that
  // go by it. The backend was made with the same. Empty: all get the same.
  std::vector<float> lane_shares = {};
  // Policies that a request may name: the backend was made for them. Empty: all.
  std::vector<std::string> policies = {};
};

class Engine {
 public:
  // All of them outlive the engine. `control` may be null: the engine then plans by itself.
  Engine(const EngineOptions& options, Model* model, TimedBackend* backend, PagePool pool,
         ControlPlane* control, const Clock* clock, EngineObserver* observer);
  ~Engine();

  // Checks every request, then queues those that can run, together and in order.
  std::vector<Admission> Submit(std::vector<GenerateRequest> requests, const EventSink& sink);
  // Ends a chain at the next step, with the token that it is choosing; unknown ids are ignored.
  void Cancel(RequestId request);
  // No new requests from now on; running and waiting chains finish.
  void Drain();
  // Requests taken and not yet ended; unlike a snapshot, never late.
  uint64_t outstanding() const { return outstanding_.load(); }
  EngineSnapshot Snapshot() const;

  // Orders one step, and takes the tokens of the step ordered before. False when there was nothing
  // to do. A returned error is fatal: the backend or the model is broken, every chain has been
  // ended with it.
  absl::StatusOr<bool> Step();
  // Steps until Stop, sleeping while idle.
  absl::Status Run();
  void Stop();

 private:
  absl::Status CheckRequest(const GenerateRequest& request) const;
  static uint32_t PagesToReserve(const GenerateRequest& request, const LaneSharing& sharing);
  // Checks the request and fills in `chain`.
  absl::Status Accept(GenerateRequest request, Chain& chain) const;
  void HearStore();
  void TakeCancellations();
  void Admit();
  absl::Status RunStep();
  absl::Status OrderStep(DecodeStep& step);
  // Waits for the step's tokens, if they have not been taken.
  absl::Status TakeTokens(DecodeStep& step);
  void TakeToken(Chain& chain, int32_t token);
  // Records what the step has appended, and does what is due at group boundaries.
  absl::Status CommitStep(DecodeStep& step);
  void CountStep(absl::Span<Chain* const> chains);
  // A step's attention evicted a token of the chain: an anneal that is carried out gradually.
  absl::Status CommitEviction(Chain& chain);
  // Adds what the call takes to model_seconds_.
  template <typename Call>
  auto InModel(const Call& call);
  void ObserveKernels();
  void FinishChains();
  void SendEvents(Chain& chain);
  void FailAll(const absl::Status& status);
  void PublishSnapshot(bool force);

  const EngineOptions options_;
  Model* const model_;
  TimedBackend* const backend_;
  PagePool pool_;
  ControlPlane* const control_;
  const Clock* const clock_;
  EngineObserver* const observer_;
  BoundaryWork boundary_;

  // Engine thread only.
  std::vector<std::unique_ptr<Chain>> chains_;  // in order of admission, which is that of ids
  std::vector<uint32_t> free_open_groups_;
  EngineSnapshot working_;  // counters since start
  Clock::Time published_;
  static_assert(kStepsAhead >= 2);
  std::array<DecodeStep, 2> steps_;
  size_t turn_ = 0;           // steps_[turn_] is ordered next; the other one may still run
  double model_seconds_ = 0;  // of the step at hand: ordering and waiting

  // Shared.
  std::atomic<uint64_t> outstanding_{0};
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Chain>> waiting_;
  std::vector<RequestId> cancelled_;
  EngineSnapshot published_snapshot_;
  RequestId next_id_ = 1;
  bool draining_ = false;
  bool stop_ = false;
};

}  // namespace palimpsest
