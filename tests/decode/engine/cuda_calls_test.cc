// SPDX-License-Identifier: Apache-2.0
// What the engine asks of CUDA while chains run, by CUPTI's account of every call of the runtime:
// nothing is allocated or freed, and the host waits for nothing but events, none of them while it
// orders a step, save for the copy of a table that it fills again.
#include <cupti.h>

#include <map>
#include <string>

#include "services/decode/model/forwarding_model.h"
#include "tests/decode/engine/cuda_engine_fixture.h"

namespace palimpsest {
namespace {

using Calls = std::map<std::string, uint32_t>;

// Counts the runtime's calls by name between its making and its end, those of every thread.
class CallCounter {
 public:
  CallCounter() {
    EXPECT_EQ(cuptiSubscribe(&subscriber_, Count, this), CUPTI_SUCCESS);
    EXPECT_EQ(cuptiEnableDomain(1, subscriber_, CUPTI_CB_DOMAIN_RUNTIME_API), CUPTI_SUCCESS);
  }
  ~CallCounter() { EXPECT_EQ(cuptiUnsubscribe(subscriber_), CUPTI_SUCCESS); }
  CallCounter(const CallCounter&) = delete;
  CallCounter& operator=(const CallCounter&) = delete;

  const Calls& calls() const { return calls_; }

 private:
  static void CUPTIAPI Count(void* self, CUpti_CallbackDomain, CUpti_CallbackId, const void* data) {
    const auto& call = *static_cast<const CUpti_CallbackData*>(data);
    if (call.callbackSite != CUPTI_API_ENTER) return;
    ++static_cast<CallCounter*>(self)->calls_[call.functionName];
  }

  CUpti_SubscriberHandle subscriber_ = nullptr;
  Calls calls_;
};

// How many calls have a part of these in their names.
uint32_t CountOf(const Calls& calls, std::initializer_list<const char*> parts) {
  uint32_t count = 0;
  for (const auto& [name, times] : calls) {
    for (const char* part : parts) {
      if (name.find(part) != std::string::npos) {
        count += times;
        break;
      }
    }
  }
  return count;
}

std::string Listed(const Calls& calls) {
  std::string text;
  for (const auto& [name, times] : calls) text += name + " " + std::to_string(times) + "\n";
  return text;
}

// Keeps what a step's order alone called.
class CountedModel final : public ForwardingModel {
 public:
  CountedModel(Model* model, const CallCounter* counter)
      : ForwardingModel(model), counter_(counter) {}

  absl::Status StartGenerate(const StepBatch& batch, Backend& backend,
                             absl::Span<const SampleSpec> samples) override {
    const Calls before = counter_->calls();
    const absl::Status status = ForwardingModel::StartGenerate(batch, backend, samples);
    for (const auto& [name, times] : counter_->calls()) {
      const auto found = before.find(name);
      const uint32_t more = times - (found == before.end() ? 0 : found->second);
      if (more > 0) in_steps_[name] += more;
    }
    ++steps_;
    return status;
  }
  const Calls& in_steps() const { return in_steps_; }
  uint32_t steps() const { return steps_; }

 private:
  const CallCounter* const counter_;
  Calls in_steps_;
  uint32_t steps_ = 0;
};

constexpr std::initializer_list<const char*> kAllocations = {
    "Malloc", "HostAlloc", "Free", "StreamCreate", "EventCreate", "GraphInstantiate"};
// A copy that is not Async waits as well; none of ours may be one.
constexpr std::initializer_list<const char*> kDeviceWaits = {
    "DeviceSynchronize", "StreamSynchronize", "cudaMemcpy_v", "cudaMemset_v"};

TEST_P(CudaEngine, NothingIsAllocatedAndNoStepWaitsOnceChainsRun) {
  Run(model_.get());  // CUDA loads code when it is first launched
  CallCounter counter;
  CountedModel model(model_.get(), &counter);
  Run(&model);
  SCOPED_TRACE(Listed(counter.calls()));
  EXPECT_GT(CountOf(counter.calls(), {"GraphLaunch"}), 0u) << "nothing was seen";
  EXPECT_EQ(CountOf(counter.calls(), kAllocations), 0u);
  EXPECT_EQ(CountOf(counter.calls(), kDeviceWaits), 0u);
  // A step's tables are staged in two copies in turn: the wait is for the one of two steps ago.
  EXPECT_LE(CountOf(model.in_steps(), {"EventSynchronize"}), 3 * model.steps());
}

}  // namespace
}  // namespace palimpsest
