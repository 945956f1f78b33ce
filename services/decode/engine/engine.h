// SPDX-License-Identifier: Apache-2.0
// The decode engine: continuous batching over a paged, compressed cache.
//
// One thread owns everything that runs (Step, Run). A step: hear the store, admit what fits, let
// the model choose the next tokens from one ragged batch (one token of each decoding chain, a chunk
// of each prompt), and, for chains that reached a group boundary, carry out plans, seal the
// group, report, and plan locally where there is no store to do it.
//
// A step never waits for the store, unless Options::lockstep asks for it. When the pool is full a
// chain falls back on its own planner and then on pressure.h; no live chain ends for want of
// a plan. Submit, Cancel, Drain and Snapshot may be called from any thread.
#pragma once

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
  // Ends a chain at the next step; unknown ids are ignored.
  void Cancel(RequestId request);
  // No new requests from now on; running and waiting chains finish.
  void Drain();
  // Requests taken and not yet ended; unlike a snapshot, never late.
  uint64_t outstanding() const { return outstanding_.load(); }
  EngineSnapshot Snapshot() const;

  // Runs one step. False when there was nothing to do. A returned error is fatal: the backend or
  // the model is broken, every chain has been ended with it.
  absl::StatusOr<bool> Step();
  // Steps until Stop, sleeping while idle.
  absl::Status Run();
  void Stop();

 private:
  absl::Status CheckRequest(const GenerateRequest& request) const;
  uint32_t PagesToReserve(const GenerateRequest& request) const;
  void HearStore();
  void TakeCancellations();
  void Admit();
  absl::Status RunModel();
  // A step's attention evicted a token of the chain: an anneal that is carried out gradually.
  absl::Status CommitEviction(Chain& chain);
  void TakeTokens();
  void ObserveKernels(double model_seconds);
  absl::Status CommitStep();
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
  // Scratch of one step.
  std::vector<Chain*> stepping_;
  std::vector<SequenceView> views_;
  std::vector<StepRows> rows_;
  std::vector<int32_t> tokens_;
  std::vector<uint32_t> logit_rows_;
  std::vector<Chain*> logit_chains_;
  std::vector<SampleSpec> samples_;
  std::vector<int32_t> chosen_;

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
