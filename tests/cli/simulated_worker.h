// SPDX-License-Identifier: Apache-2.0
// SimulatedWorker: speaks proto/decode.capnp and generates chains that look right, without a model.
// For tests of the command line and for looking at its display. It ends each chain with a correct
// answer, or a wrong one where `wrong_every` says so.
#pragma once

#include <kj/timer.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "proto/decode.capnp.h"

namespace palimpsest::cli {

struct SimulationOptions {
  uint32_t tokens_per_second = 400;  // of one chain
  uint32_t chain_tokens = 1200;      // before the answer; varied by chain
  uint32_t batch_max = 8;            // the others wait
  uint32_t wrong_every = 0;          // chains of bounded policies: every n-th answers wrongly
  uint32_t fail_every = 0;           // every n-th ends with an error
  uint64_t die_after_tokens = 0;     // then the process kills itself
  bool refuse = false;               // every request, for good
  bool busy_once = false;            // refuse the second request once, with a time to come back
  bool silent = false;               // answer nothing at all
  bool lockstep = false;
};

// Reads "rate=400,chain=1200,...": the keys are in the source. Aborts on an unknown one.
SimulationOptions ParseSimulation(const std::string& text);

class SimulatedWorker final : public wire::Decode::Server {
 public:
  SimulatedWorker(kj::Timer& timer, const SimulationOptions& options);

  ~SimulatedWorker() noexcept(false);

  kj::Promise<void> generate(GenerateContext context) override;
  kj::Promise<void> status(StatusContext context) override;

 private:
  struct Chain;
  kj::Promise<void> Tick();
  void Step(Chain& chain, double seconds);
  void Push(Chain& chain, const std::vector<int32_t>& tokens, bool finished);

  kj::Timer& timer_;
  const SimulationOptions options_;
  std::map<uint64_t, kj::Own<Chain>> chains_;
  uint64_t next_request_ = 1;
  uint64_t tokens_ = 0;
  uint64_t steps_ = 0;
  uint64_t used_byte_steps_ = 0;
  uint64_t full_byte_steps_ = 0;
  bool was_busy_ = false;
  kj::Promise<void> ticking_;
};

}  // namespace palimpsest::cli
