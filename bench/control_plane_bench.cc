// SPDX-License-Identifier: Apache-2.0
// What one shard's core can carry: reports a second through the engine alone, and through loopback
// TCP with a real server and client, where the plan's round trip is measured too. JSON lines.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "services/decode/store_client/store_client.h"
#include "services/kvstore/engine.h"
#include "services/kvstore/server.h"

namespace palimpsest {
namespace {

constexpr uint32_t kSequences = 256;
constexpr uint64_t kReportsEach = 1000;  // 16,000 tokens a sequence
constexpr uint64_t kRoundTrips = 2000;

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

PolicySpec Spec() {
  PolicySpec spec;
  spec.sparsity_layers = {1, 3, 5, 7};
  spec.theta = {0.3f, 0.6f};
  return spec;
}

SealedTokens Sealed(uint64_t number) {
  return {.token_count = 16, .starts_window = number % 8 == 1};
}

std::vector<float> Sparsity(uint64_t number) {
  if (number % 8 != 0) return {};
  return std::vector<float>(4, static_cast<float>(number % 10) / 10);
}

void BenchEngine() {
  const auto clock = NewSteadyClock();
  StoreEngine engine({}, *clock);
  const SessionId session =
      std::get<SessionGrant>(engine.Open({.worker_name = "bench", .worker_incarnation = 1}))
          .session;
  std::vector<Stamp> stamps;
  for (uint64_t id = 1; id <= kSequences; ++id) {
    stamps.push_back(std::get<Stamp>(
        engine.Register(session, {.sequence = id, .tenant = "bench", .policy = Spec()})));
  }
  uint64_t plans = 0;
  const auto start = std::chrono::steady_clock::now();
  for (uint64_t number = 1; number <= kReportsEach; ++number) {
    for (const Stamp& stamp : stamps) {
      engine.Report(session, {.stamp = stamp,
                              .number = number,
                              .sealed = {Sealed(number)},
                              .refresh = number % 8 == 0,
                              .sparsity = Sparsity(number)});
    }
    for (const PlanMessage& plan : engine.TakeOutput(session).plans) {
      ++plans;
      engine.Acknowledge(
          session,
          {.stamp = plan.stamp, .plan_number = plan.plan_number, .applied = plan.plan.anneals});
    }
  }
  std::printf(
      "{\"bench\":\"store_engine\",\"sequences\":%u,\"reports_per_s\":%.0f,\"plans\":%lu}\n",
      kSequences, static_cast<double>(kSequences * kReportsEach) / Seconds(start), plans);
}

void Await(ControlPlane& control) {
  while (control.state() != StoreState::kConnected) std::this_thread::yield();
}

// As fast as the client takes them; what is dropped by its bounds is not counted.
void BenchStream(ControlPlane& control) {
  for (uint64_t id = 1; id <= kSequences; ++id) {
    control.Register({.sequence = id, .tenant = "bench", .policy = Spec(), .state = {}});
  }
  uint64_t answered = 0;
  const auto start = std::chrono::steady_clock::now();
  for (uint64_t number = 1; number <= kReportsEach; ++number) {
    for (uint64_t id = 1; id <= kSequences; ++id) {
      control.Report({.sequence = id,
                      .report_number = number,
                      .sealed = {Sealed(number)},
                      .refresh = number % 8 == 0,
                      .sparsity = Sparsity(number),
                      .wants_answer = true});
    }
    for (uint64_t pending = kSequences; pending > 0;) {
      const auto plans = control.Poll();
      for (const StorePlan& plan : plans) {
        if (!plan.plan.anneals.empty()) {
          control.Acknowledge({.sequence = plan.sequence,
                               .plan_number = plan.plan_number,
                               .applied = plan.plan.anneals});
        }
        pending -= plan.report_number == number ? 1 : 0;
        ++answered;
      }
      if (plans.empty()) std::this_thread::yield();
    }
  }
  std::printf("{\"bench\":\"store_loopback\",\"sequences\":%u,\"reports_per_s\":%.0f}\n",
              kSequences, static_cast<double>(answered) / Seconds(start));
}

void BenchRoundTrip(ControlPlane& control) {
  constexpr SequenceId kId = 100000;
  control.Register({.sequence = kId, .tenant = "bench", .policy = Spec(), .state = {}});
  std::vector<double> lag_us;
  for (uint64_t number = 1; number <= kRoundTrips; ++number) {
    const auto start = std::chrono::steady_clock::now();
    control.Report({.sequence = kId,
                    .report_number = number,
                    .sealed = {Sealed(number)},
                    .refresh = number % 8 == 0,
                    .sparsity = Sparsity(number),
                    .wants_answer = true});
    const auto plan = control.AwaitPlan(kId, number, std::chrono::seconds(10));
    KV_CHECK(plan.has_value());
    lag_us.push_back(Seconds(start) * 1e6);
    if (plan->plan.anneals.empty()) continue;
    control.Acknowledge(
        {.sequence = kId, .plan_number = plan->plan_number, .applied = plan->plan.anneals});
  }
  std::sort(lag_us.begin(), lag_us.end());
  std::printf("{\"bench\":\"plan_round_trip\",\"p50_us\":%.1f,\"p99_us\":%.1f}\n",
              lag_us[kRoundTrips / 2], lag_us[kRoundTrips * 99 / 100]);
}

}  // namespace
}  // namespace palimpsest

int main() {
  using namespace palimpsest;
  BenchEngine();
  auto server = StartStoreServer({.listen = "127.0.0.1:0"});
  KV_CHECK(server.ok());
  StoreClientOptions options;
  options.endpoint = "127.0.0.1:" + std::to_string((*server)->port());
  const auto client = NewStoreClient(options);
  Await(*client);
  BenchStream(*client);
  BenchRoundTrip(*client);
  return 0;
}
