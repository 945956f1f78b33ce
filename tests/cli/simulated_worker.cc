// SPDX-License-Identifier: Apache-2.0
#include "tests/cli/simulated_worker.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/base/check.h"
#include "common/base/format.h"

namespace palimpsest::cli {
namespace {

// Of the reasoner's vocabulary.
constexpr int32_t kEos = 102, kPlus = 103, kEquals = 107, kSemicolon = 113, kNo = 117, kAns = 121;
constexpr uint64_t kFullTokenBytes = 4096;

// Steps `x op y = r ;` that reach the goal, by trying everything; nothing when there are none.
bool Solve(std::vector<int32_t> numbers, int32_t goal, std::vector<int32_t>* steps) {
  if (numbers.size() == 1) return numbers[0] == goal;
  for (size_t i = 0; i < numbers.size(); ++i) {
    for (size_t j = 0; j < numbers.size(); ++j) {
      const int32_t x = numbers[i], y = numbers[j];
      if (i == j || x < y) continue;
      for (int op = 0; op < 4; ++op) {
        if (op >= 2 && y == 1) continue;
        if (op == 3 && x % y != 0) continue;
        const int32_t value = op == 0 ? x + y : op == 1 ? x - y : op == 2 ? x * y : x / y;
        if (value < 1 || value > 99) continue;
        std::vector<int32_t> rest = {value};
        for (size_t k = 0; k < numbers.size(); ++k) {
          if (k != i && k != j) rest.push_back(numbers[k]);
        }
        const size_t before = steps->size();
        steps->insert(steps->end(), {x, kPlus + op, y, kEquals, value, kSemicolon});
        if (Solve(rest, goal, steps)) return true;
        steps->resize(before);
      }
    }
  }
  return false;
}

}  // namespace

struct SimulatedWorker::Chain {
  uint64_t request = 0;
  uint32_t prompt_tokens = 0;
  uint32_t budget = 0;
  bool bounded = false;
  bool running = false;
  bool fails = false;
  double due = 0;  // tokens that the clock allows
  uint32_t generated = 0;
  std::vector<int32_t> script;  // what it will say
  uint64_t footprint_byte_steps = 0, full_byte_steps = 0, live_token_steps = 0, peak = 0;
  std::string policy, timeline;
  kj::Maybe<wire::TokenSink::Client> sink;
  kj::Promise<void> pushes = kj::READY_NOW;

  uint32_t tokens() const { return prompt_tokens + generated; }
  uint32_t live() const { return bounded ? prompt_tokens + std::min(generated, budget) : tokens(); }
  uint64_t full_bytes() const { return tokens() * kFullTokenBytes; }
  uint64_t footprint_bytes() const {
    return bounded ? live() * kFullTokenBytes * 3 / 10 + 16 * kFullTokenBytes
                   : full_bytes() * 101 / 100;
  }
};

SimulationOptions ParseSimulation(const std::string& text) {
  SimulationOptions options;
  for (const auto& item : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(item, absl::MaxSplits('=', 1));
    uint32_t value = 0;
    KV_CHECK(absl::SimpleAtoi(pair.second, &value));
    if (pair.first == "rate")
      options.tokens_per_second = value;
    else if (pair.first == "chain")
      options.chain_tokens = value;
    else if (pair.first == "batch")
      options.batch_max = value;
    else if (pair.first == "wrong")
      options.wrong_every = value;
    else if (pair.first == "fail")
      options.fail_every = value;
    else if (pair.first == "die")
      options.die_after_tokens = value;
    else if (pair.first == "refuse")
      options.refuse = value != 0;
    else if (pair.first == "busy")
      options.busy_once = value != 0;
    else if (pair.first == "silent")
      options.silent = value != 0;
    else
      KV_CHECK(!"unknown key of PALIMPSEST_SIMULATION");
  }
  return options;
}

SimulatedWorker::SimulatedWorker(kj::Timer& timer, const SimulationOptions& options)
    : timer_(timer), options_(options), ticking_(Tick().eagerlyEvaluate(nullptr)) {}

SimulatedWorker::~SimulatedWorker() noexcept(false) = default;

kj::Promise<void> SimulatedWorker::Tick() {
  return timer_.afterDelay(20 * kj::MILLISECONDS).then([this] {
    uint32_t running = 0;
    std::vector<uint64_t> ended;
    for (auto& [id, chain] : chains_) {
      chain->running = running < options_.batch_max;
      if (!chain->running) break;
      ++running;
      Step(*chain, 0.02);
      if (chain->generated == chain->script.size()) ended.push_back(id);
    }
    for (const uint64_t id : ended) {
      // The last push must get out before its chain goes.
      auto pushes = kj::mv(chains_[id]->pushes);
      pushes.detach([](kj::Exception&&) {});
      chains_.erase(id);
    }
    return Tick();
  });
}

void SimulatedWorker::Step(Chain& chain, double seconds) {
  chain.due += options_.tokens_per_second * seconds;
  std::vector<int32_t> tokens;
  while (chain.generated < chain.script.size() && chain.generated < chain.due) {
    tokens.push_back(chain.script[chain.generated++]);
    chain.footprint_byte_steps += chain.footprint_bytes();
    chain.full_byte_steps += chain.full_bytes();
    chain.live_token_steps += chain.live();
    used_byte_steps_ += chain.footprint_bytes() * 104 / 100;
    full_byte_steps_ += chain.full_bytes();
    chain.peak = std::max(chain.peak, chain.footprint_bytes());
    ++tokens_;
    ++steps_;
    if (chain.generated % 128 == 0) chain.timeline += "RRETEERRTE"[(steps_ / 7) % 10];
  }
  if (options_.die_after_tokens > 0 && tokens_ >= options_.die_after_tokens) {
    kill(getpid(), SIGKILL);
  }
  if (!tokens.empty()) Push(chain, tokens, chain.generated == chain.script.size());
}

void SimulatedWorker::Push(Chain& chain, const std::vector<int32_t>& tokens, bool finished) {
  KJ_IF_MAYBE (sink, chain.sink) {
    auto call = sink->pushRequest();
    auto event = call.initEvents(1)[0];
    event.setRequest(chain.request);
    auto list = event.initTokens(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) list.set(i, tokens[i]);
    if (finished) {
      auto end = event.initFinished();
      end.setReason(chain.fails ? wire::FinishReason::ERROR : wire::FinishReason::STOP);
      if (chain.fails) end.initError().setText("the simulation was asked to fail");
      auto stats = end.initStats();
      stats.setPromptTokens(chain.prompt_tokens);
      stats.setNewTokens(chain.generated);
      stats.setFootprintByteSteps(chain.footprint_byte_steps);
      stats.setFullByteSteps(chain.full_byte_steps);
      stats.setFootprintBytesPeak(chain.peak);
      stats.setFullBytesEnd(chain.full_bytes());
      stats.setPlansApplied(chain.generated / 128);
      stats.setPlanLagSecondsSum(0.0021 * (chain.generated / 128));
      stats.setPlanLagSecondsMax(0.0093);
      stats.setPlanLagTokensMax(16);
      stats.setPlanHash(chain.request * 0x9e3779b97f4a7c15u);
      stats.setTimeline(chain.timeline);
      stats.setLiveTokenSteps(chain.live_token_steps);
      stats.setSteps(chain.generated);
      stats.setLiveTokensPeak(chain.live());
    }
    chain.pushes = chain.pushes.then([c = kj::mv(call)]() mutable { return c.send(); })
                       .eagerlyEvaluate([](kj::Exception&&) {});
  }
}

kj::Promise<void> SimulatedWorker::generate(GenerateContext context) {
  if (options_.silent) return kj::NEVER_DONE;
  const auto requests = context.getParams().getRequests();
  auto admissions = context.getResults().initAdmissions(requests.size());
  for (uint32_t i = 0; i < requests.size(); ++i) {
    const bool busy = options_.busy_once && !was_busy_ && i == 1;
    was_busy_ = was_busy_ || busy;
    if (options_.refuse || busy) {
      auto refusal = admissions[i].initRefusal();
      refusal.setText(busy ? "too many sequences wait" : "policy.name: expected one of none");
      if (busy) refusal.setRetryAfterMs(50);
      refusal.setInvalid();
      for (uint32_t j = i + 1; busy && j < requests.size(); ++j) {
        admissions[j].initRefusal().setRetryAfterMs(50);
      }
      if (busy) break;
      continue;
    }
    auto chain = kj::heap<Chain>();
    chain->request = next_request_++;
    chain->sink = context.getParams().getSink();
    const auto prompt = requests[i].getPrompt();  // <bos> goal G [ numbers ]
    chain->prompt_tokens = prompt.size();
    chain->policy = requests[i].getPolicy().getName();
    chain->budget = requests[i].getPolicy().getBudgetTokens();
    chain->bounded = chain->budget < 1u << 24;
    chain->fails = options_.fail_every > 0 && chain->request % options_.fail_every == 0;
    std::vector<int32_t> numbers, steps;
    for (uint32_t at = 4; at + 1 < prompt.size(); ++at) numbers.push_back(prompt[at]);
    Solve(numbers, prompt[2], &steps);
    const bool wrong =
        chain->bounded && options_.wrong_every > 0 && chain->request % options_.wrong_every == 0;
    if (wrong && steps.size() > 4) steps[4] = steps[4] % 99 + 1;
    const uint32_t length = options_.chain_tokens * (70 + chain->request * 37 % 61) / 100;
    chain->script.assign(std::min(length, requests[i].getMaxNewTokens()), kNo);
    chain->script.push_back(kAns);
    chain->script.insert(chain->script.end(), steps.begin(), steps.end());
    chain->script.push_back(kEos);
    admissions[i].setRequest(chain->request);
    chains_[chain->request] = kj::mv(chain);
  }
  struct Hold final : public wire::Generation::Server {};
  context.getResults().setGeneration(kj::heap<Hold>());
  return kj::READY_NOW;
}

kj::Promise<void> SimulatedWorker::status(StatusContext context) {
  if (options_.silent) return kj::NEVER_DONE;
  auto status = context.getResults().initStatus();
  status.setName("simulated");
  status.setVersion("0.1.0");
  status.setUptimeSeconds(61);
  auto model = status.initModel();
  model.setFamily("llama");
  model.setPath("lab/reasoner/model");
  model.setLayers(8);
  model.setKvHeads(2);
  model.setHeadDim(64);
  model.setVocabSize(128);
  status.setStoreState(wire::WorkerStatus::StoreState::CONNECTED);
  status.setStoreEndpoint("127.0.0.1:7401");
  status.setLockstep(options_.lockstep);
  status.setKeysRotated(true);
  status.setTokensDecoded(tokens_);
  status.setSteps(steps_);
  uint64_t footprint = 0, full = 0, pages4 = 0, pages2 = 0, pages16 = 0, running = 0;
  for (const auto& [id, chain] : chains_) running += chain->running ? 1 : 0;
  auto list = status.initChains(running);
  uint32_t i = 0;
  for (const auto& [id, chain] : chains_) {
    if (!chain->running) continue;
    auto out = list[i++];
    out.setRequest(id);
    out.setTenant("default");
    out.setPolicy(chain->policy);
    out.setBudgetTokens(chain->bounded ? chain->budget : 0);
    out.setTokens(chain->tokens());
    out.setPromptTokens(chain->prompt_tokens);
    out.setLiveTokens(chain->live());
    out.setFootprintBytes(chain->footprint_bytes());
    out.setFullBytes(chain->full_bytes());
    out.setTimeline(chain->timeline);
    out.setLabel("R");
    footprint += chain->footprint_bytes();
    full += chain->full_bytes();
    (chain->bounded ? pages4 : pages16) += chain->live() / 16;
    if (chain->bounded) pages2 += chain->live() / 48;
  }
  status.setSequencesRunning(running);
  status.setSequencesWaiting(chains_.size() - running);
  auto pool = status.initPool();
  pool.setCapacityBytes(1ull << 28);
  pool.setUsedBytes(footprint * 104 / 100);
  pool.setPageBytes(footprint);
  pool.setFootprintBytes(footprint);
  pool.setFullBytes(full);
  auto pages = pool.initPagesByFormat(kFormatCount);
  pages.set(0, pages16);
  pages.set(2, pages4);
  pages.set(3, pages2);
  pool.setUsedByteSteps(used_byte_steps_);
  pool.setFullByteSteps(full_byte_steps_);
  return kj::READY_NOW;
}

}  // namespace palimpsest::cli
