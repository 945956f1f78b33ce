// SPDX-License-Identifier: Apache-2.0
#include "services/cli/client/wire_messages.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "common/rpc/wire.h"

namespace palimpsest::cli {
namespace {

constexpr size_t kPathBytesMax = 4096;
constexpr size_t kTimelineMax = limits::kSegmentsPerSequenceMax;

// What is shown on a terminal: escaped here, once, so that no display code has to think of it.
std::string Text(capnp::Text::Reader text, size_t bytes_max = limits::kTextBytesMax) {
  return Escaped(std::string(text.begin(), std::min(text.size(), bytes_max)), bytes_max);
}

std::string Timeline(capnp::Text::Reader text) {
  std::string letters(text.begin(), std::min(text.size(), kTimelineMax));
  for (char& letter : letters) {
    if (letter != 'R' && letter != 'E' && letter != 'T') letter = '?';
  }
  return letters;
}

PoolStatus ReadPool(wire::PoolStatus::Reader reader) {
  PoolStatus pool;
  pool.capacity_bytes = reader.getCapacityBytes();
  pool.used_bytes = reader.getUsedBytes();
  pool.page_bytes = reader.getPageBytes();
  pool.footprint_bytes = reader.getFootprintBytes();
  pool.full_bytes = reader.getFullBytes();
  pool.used_byte_steps = reader.getUsedByteSteps();
  pool.full_byte_steps = reader.getFullByteSteps();
  const auto pages = reader.getPagesByFormat();
  for (uint32_t i = 0; i < std::min<uint32_t>(pages.size(), kFormatCount); ++i) {
    pool.pages_by_format[i] = pages[i];
  }
  return pool;
}

ModelInfo ReadModel(wire::ModelInfo::Reader reader) {
  return {.family = Text(reader.getFamily()),
          .path = Text(reader.getPath(), kPathBytesMax),
          .synthetic = reader.getSynthetic(),
          .layers = reader.getLayers(),
          .kv_heads = reader.getKvHeads(),
          .head_dim = reader.getHeadDim(),
          .vocab_size = reader.getVocabSize(),
          .max_positions = reader.getMaxPositions()};
}

ChainStatus ReadChain(wire::ChainStatus::Reader reader) {
  return {.request = reader.getRequest(),
          .tenant = Text(reader.getTenant()),
          .policy = Text(reader.getPolicy()),
          .budget_tokens = reader.getBudgetTokens(),
          .tokens = reader.getTokens(),
          .prompt_tokens = reader.getPromptTokens(),
          .live_tokens = reader.getLiveTokens(),
          .footprint_bytes = reader.getFootprintBytes(),
          .full_bytes = reader.getFullBytes(),
          .timeline = Timeline(reader.getTimeline()),
          .label = Text(reader.getLabel())};
}

ChainStats ReadStats(wire::RequestStats::Reader reader) {
  return {.prompt_tokens = reader.getPromptTokens(),
          .new_tokens = reader.getNewTokens(),
          .footprint_byte_steps = reader.getFootprintByteSteps(),
          .full_byte_steps = reader.getFullByteSteps(),
          .footprint_bytes_peak = reader.getFootprintBytesPeak(),
          .full_bytes_end = reader.getFullBytesEnd(),
          .plans_applied = reader.getPlansApplied(),
          .plans_local = reader.getPlansLocal(),
          .plan_lag_seconds_sum = reader.getPlanLagSecondsSum(),
          .plan_lag_seconds_max = reader.getPlanLagSecondsMax(),
          .plan_lag_tokens_max = reader.getPlanLagTokensMax(),
          .pressure_reliefs = reader.getPressureReliefs(),
          .plan_hash = reader.getPlanHash(),
          .timeline = Timeline(reader.getTimeline()),
          .live_token_steps = reader.getLiveTokenSteps(),
          .live_tokens_peak = reader.getLiveTokensPeak(),
          .steps = reader.getSteps()};
}

}  // namespace

absl::StatusOr<WorkerStatus> ReadWorkerStatus(wire::WorkerStatus::Reader reader) {
  WorkerStatus status;
  status.name = Text(reader.getName());
  status.version = Text(reader.getVersion());
  status.uptime_seconds = reader.getUptimeSeconds();
  status.model = ReadModel(reader.getModel());
  const auto link = static_cast<uint16_t>(reader.getStoreState());
  if (link > static_cast<uint16_t>(StoreLink::kConnected)) {
    return absl::InvalidArgumentError(absl::StrCat("storeState ", link, " is unknown here"));
  }
  status.store = static_cast<StoreLink>(link);
  status.store_endpoint = Text(reader.getStoreEndpoint());
  status.lockstep = reader.getLockstep();
  status.draining = reader.getDraining();
  status.running = reader.getSequencesRunning();
  status.waiting = reader.getSequencesWaiting();
  status.tokens_decoded = reader.getTokensDecoded();
  status.tokens_prefilled = reader.getTokensPrefilled();
  status.steps = reader.getSteps();
  status.decode_seconds = reader.getDecodeSeconds();
  status.pool = ReadPool(reader.getPool());
  const auto chains = reader.getChains();
  if (chains.size() > limits::kRequestsPerBatchMax) {
    return absl::InvalidArgumentError(absl::StrCat("chains: ", chains.size(), " are too many"));
  }
  for (const auto chain : chains) status.chains.push_back(ReadChain(chain));
  status.reregistrations = reader.getReregistrations();
  status.keys_rotated = reader.getKeysRotated();
  if (reader.hasDefaultPolicy()) {
    KV_ASSIGN_OR_RETURN(status.default_policy, ReadPolicySpec(reader.getDefaultPolicy()));
    status.default_policy->name = Escaped(status.default_policy->name);
  }
  return status;
}

absl::StatusOr<ChainEvent> ReadChainEvent(wire::TokenEvent::Reader reader) {
  ChainEvent event;
  event.request = reader.getRequest();
  const auto tokens = reader.getTokens();
  if (tokens.size() > limits::kPositionMax) {
    return absl::InvalidArgumentError(absl::StrCat("tokens: ", tokens.size(), " are too many"));
  }
  for (const int32_t token : tokens) event.tokens.push_back(token);
  event.finished = reader.hasFinished();
  if (!event.finished) return event;
  const auto finished = reader.getFinished();
  const auto reason = static_cast<uint16_t>(finished.getReason());
  if (reason > static_cast<uint16_t>(ChainEnd::kError)) {
    return absl::InvalidArgumentError(absl::StrCat("reason ", reason, " is unknown here"));
  }
  event.end = static_cast<ChainEnd>(reason);
  if (event.end == ChainEnd::kError) event.error = ReadRefusal(finished.getError());
  event.stats = ReadStats(finished.getStats());
  return event;
}

ChainAdmission ReadAdmission(wire::Admission::Reader reader) {
  ChainAdmission admission;
  admission.admitted = reader.isRequest();
  if (admission.admitted) {
    admission.request = reader.getRequest();
  } else if (reader.isRefusal()) {
    admission.refusal = ReadRefusal(reader.getRefusal());
  }
  return admission;
}

void Write(const ChainRequest& request, wire::Request::Builder builder) {
  builder.setTenant(request.tenant);
  auto prompt = builder.initPrompt(request.prompt.size());
  for (size_t i = 0; i < request.prompt.size(); ++i) prompt.set(i, request.prompt[i]);
  builder.setMaxNewTokens(request.max_new_tokens);
  auto sampling = builder.initSampling();
  sampling.setTemperature(request.sampling.temperature);
  sampling.setTopK(request.sampling.top_k);
  sampling.setTopP(request.sampling.top_p);
  sampling.setMinP(request.sampling.min_p);
  sampling.setSeed(request.sampling.seed);
  palimpsest::Write(request.policy, builder.initPolicy());
}

}  // namespace palimpsest::cli
