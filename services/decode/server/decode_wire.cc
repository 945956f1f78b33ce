// SPDX-License-Identifier: Apache-2.0
#include "services/decode/server/decode_wire.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/rpc/wire.h"
#include "common/rpc/wire_fields.h"

namespace palimpsest {
namespace {

using wire_fields::CheckList;
using wire_fields::CutText;
using wire_fields::ReadText;

constexpr uint32_t kChainsShownMax = 1024;

Refusal RefusalOf(const absl::Status& status, uint32_t retry_after_ms) {
  Refusal refusal{.text = std::string(status.message()), .retry_after_ms = retry_after_ms};
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      refusal.code = Refusal::Code::kInvalid;
      break;
    case absl::StatusCode::kResourceExhausted:
      refusal.code = Refusal::Code::kLimit;
      break;
    case absl::StatusCode::kUnavailable:
      refusal.code = Refusal::Code::kDraining;
      break;
    case absl::StatusCode::kNotFound:
      refusal.code = Refusal::Code::kNotFound;
      break;
    default:
      refusal.code = Refusal::Code::kUnspecified;
  }
  return refusal;
}

std::string TenantOf(const std::string& text) { return text.empty() ? "default" : text; }

}  // namespace

absl::StatusOr<GenerateRequest> ReadRequest(wire::Request::Reader reader,
                                            const WorkerIdentity& worker) {
  GenerateRequest request;
  KV_ASSIGN_OR_RETURN(const std::string tenant, ReadText(reader.getTenant(), "tenant"));
  request.tenant = TenantOf(tenant);
  KV_RETURN_IF_ERROR(CheckList(reader.getPrompt(), limits::kPromptTokensMax, "prompt"));
  for (const int32_t token : reader.getPrompt()) request.prompt.push_back(token);
  request.max_new_tokens = reader.getMaxNewTokens();
  KV_RETURN_IF_ERROR(CheckList(reader.getStopTokens(), limits::kStopTokensMax, "stopTokens"));
  for (const int32_t token : reader.getStopTokens()) request.stop_tokens.push_back(token);
  if (request.stop_tokens.empty()) request.stop_tokens = worker.model.eos_ids;
  const auto sampling = reader.getSampling();
  request.sampling = {.temperature = sampling.getTemperature(),
                      .top_k = static_cast<int>(std::min<uint32_t>(sampling.getTopK(), 1u << 30)),
                      .top_p = sampling.getTopP(),
                      .min_p = sampling.getMinP(),
                      .seed = sampling.getSeed()};
  KV_ASSIGN_OR_RETURN(const PolicyChoice choice, ReadPolicyChoice(reader.getPolicy()));
  absl::StatusOr<PolicySpec> policy = Filled(choice, worker.policies.of(request.tenant));
  if (!policy.ok()) return absl::InvalidArgumentError(policy.status().message());
  request.policy = *std::move(policy);
  return request;
}

void Write(const Admission& admission, wire::Admission::Builder builder) {
  if (admission.status.ok()) {
    builder.setRequest(admission.request);
  } else {
    Write(RefusalOf(admission.status, admission.retry_after_ms), builder.initRefusal());
  }
}

void Write(const GenerateEvent& event, wire::TokenEvent::Builder builder) {
  builder.setRequest(event.request);
  auto tokens = builder.initTokens(static_cast<unsigned>(event.tokens.size()));
  for (unsigned i = 0; i < tokens.size(); ++i) tokens.set(i, event.tokens[i]);
  if (!event.finished.has_value()) return;
  auto finished = builder.initFinished();
  finished.setReason(static_cast<wire::FinishReason>(*event.finished));
  if (!event.error.ok()) Write(RefusalOf(event.error, 0), finished.initError());
  Write(*event.stats, finished.initStats());
}

void Write(const RequestStats& stats, wire::RequestStats::Builder builder) {
  builder.setPromptTokens(stats.prompt_tokens);
  builder.setNewTokens(stats.new_tokens);
  builder.setFootprintByteSteps(stats.footprint_byte_steps);
  builder.setFullByteSteps(stats.full_byte_steps);
  builder.setFootprintBytesPeak(stats.footprint_bytes_peak);
  builder.setFullBytesEnd(stats.full_bytes_end);
  builder.setPlansApplied(stats.plans_applied);
  builder.setPlansLocal(stats.plans_local);
  builder.setPlanLagSecondsSum(stats.plan_lag_seconds_sum);
  builder.setPlanLagSecondsMax(stats.plan_lag_seconds_max);
  builder.setPlanLagTokensMax(stats.plan_lag_tokens_max);
  builder.setPressureReliefs(stats.pressure_reliefs);
  builder.setPlanHash(stats.plan_hash);
  builder.setLiveTokenSteps(stats.live_token_steps);
  builder.setSteps(stats.steps);
  builder.setLiveTokensPeak(stats.live_tokens_peak);
  // A million tokens are 8,192 windows: the end is what fits and what matters.
  const size_t shown = std::min<size_t>(stats.timeline.size(), limits::kTextBytesMax);
  builder.setTimeline(stats.timeline.substr(stats.timeline.size() - shown));
}

void Write(const WorkerIdentity& identity, double uptime_seconds, const EngineSnapshot& snapshot,
           wire::WorkerStatus::Builder builder) {
  builder.setName(CutText(identity.name));
  builder.setVersion(CutText(identity.version));
  builder.setUptimeSeconds(uptime_seconds);
  auto model = builder.initModel();
  const absl::string_view family = Name(identity.model.family);
  model.setFamily(std::string(family));
  model.setPath(CutText(identity.model_path));
  model.setSynthetic(identity.synthetic);
  model.setLayers(static_cast<uint32_t>(identity.model.layers));
  model.setKvHeads(static_cast<uint32_t>(identity.model.kv_heads));
  model.setHeadDim(static_cast<uint32_t>(identity.model.head_dim));
  model.setVocabSize(static_cast<uint32_t>(identity.model.vocab_size));
  model.setMaxPositions(static_cast<uint32_t>(identity.model.max_positions));
  builder.setStoreState(static_cast<wire::WorkerStatus::StoreState>(snapshot.store));
  builder.setStoreEndpoint(CutText(identity.store_endpoint));
  builder.setLockstep(identity.lockstep);
  builder.setDraining(snapshot.draining);
  builder.setSequencesRunning(static_cast<uint32_t>(snapshot.chains.size()));
  builder.setSequencesWaiting(snapshot.waiting);
  builder.setTokensDecoded(snapshot.tokens_decoded);
  builder.setTokensPrefilled(snapshot.tokens_prefilled);
  builder.setSteps(snapshot.steps);
  builder.setDecodeSeconds(snapshot.step_seconds);
  builder.setReregistrations(snapshot.reregistrations);
  Write(identity.policies.worker, builder.initDefaultPolicy());
  builder.setKeysRotated(identity.keys_rotated);
  auto pool = builder.initPool();
  pool.setCapacityBytes(snapshot.pool.capacity_bytes);
  pool.setUsedBytes(snapshot.pool.used_bytes);
  pool.setPageBytes(snapshot.pool.page_bytes);
  pool.setFootprintBytes(snapshot.footprint_bytes);
  pool.setFullBytes(snapshot.full_bytes);
  auto pages = pool.initPagesByFormat(kFormatCount);
  for (const PoolUsage::OfFormat& usage : snapshot.pool.formats) {
    const unsigned k = static_cast<unsigned>(usage.format.k);
    pages.set(k, pages[k] + usage.pages);
  }
  pool.setUsedByteSteps(snapshot.used_byte_steps);
  pool.setFullByteSteps(snapshot.full_byte_steps);
  const unsigned shown =
      static_cast<unsigned>(std::min<size_t>(snapshot.chains.size(), kChainsShownMax));
  auto chains = builder.initChains(shown);
  for (unsigned i = 0; i < shown; ++i) {
    const ChainSnapshot& chain = snapshot.chains[i];
    chains[i].setRequest(chain.request);
    chains[i].setTenant(CutText(chain.tenant));
    chains[i].setPolicy(CutText(chain.policy));
    chains[i].setBudgetTokens(chain.budget_tokens);
    chains[i].setTokens(chain.tokens);
    chains[i].setPromptTokens(chain.prompt_tokens);
    chains[i].setLiveTokens(chain.live_tokens);
    chains[i].setFootprintBytes(chain.footprint_bytes);
    chains[i].setFullBytes(chain.full_bytes);
    chains[i].setTimeline(CutText(chain.timeline));
    chains[i].setLabel(std::string(Letter(chain.label)));
  }
}

}  // namespace palimpsest
