// SPDX-License-Identifier: Apache-2.0
#include "services/decode/worker_settings.h"

#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/decode/model/known_shapes.h"

namespace palimpsest {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

namespace {

absl::StatusOr<std::optional<ClassFormats>> ParseFormats(absl::string_view text) {
  if (text.empty()) return std::nullopt;
  KV_ASSIGN_OR_RETURN(const ClassFormats formats, ParseClassFormats(text));
  return formats;
}

std::string FormatFormats(const std::optional<ClassFormats>& formats) {
  return formats.has_value() ? ToString(*formats) : "";
}

// One field of what is said for a tenant. The policy as a whole is checked when it is known which
// are served.
absl::Status SetTenantField(PolicyChoice* choice, const std::string& field,
                            const std::string& value) {
  if (field == "policy") {
    choice->name = value;
    return DefaultSpec(value).status();
  }
  if (field == "formats") {
    KV_ASSIGN_OR_RETURN(choice->formats, ParseClassFormats(value));
    return absl::OkStatus();
  }
  uint32_t& tokens = field == "budget" ? choice->budget_tokens : choice->window_tokens;
  KV_ASSIGN_OR_RETURN(const int64_t number, ParseInteger(value));
  if (number < kWindowTokensMin || number > limits::kPositionMax) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(value),
                                                   " is out of range; allowed: ", kWindowTokensMin,
                                                   " to ", limits::kPositionMax, " tokens"));
  }
  tokens = static_cast<uint32_t>(number);
  return absl::OkStatus();
}

std::map<std::string, std::string> ShowTenant(const PolicyChoice& choice) {
  std::map<std::string, std::string> fields;
  if (!choice.name.empty()) fields["policy"] = choice.name;
  if (choice.budget_tokens > 0) fields["budget"] = absl::StrCat(choice.budget_tokens);
  if (choice.window_tokens > 0) fields["window"] = absl::StrCat(choice.window_tokens);
  if (choice.formats.has_value()) fields["formats"] = ToString(*choice.formats);
  return fields;
}

void AddModel(SettingsTable* table, WorkerSettings* settings) {
  table->Section("Model");
  table->Text(
      "model", &settings->model,
      {"Hugging Face folder: config.json, safetensors, tokenizer.json.", "lab/reasoner/model"});
  table->Text("calibration", &settings->calibration,
              {"File made by `palimpsest calibrate`; by default calibration.json in the model's "
               "folder, where there is one.",
               "calibration.json"});
  table->Text(
      "codebook", &settings->codebook,
      {"File of typical queries, made by `palimpsest calibrate`, for the policy anticipate; "
       "by default queries.safetensors in the model's folder, where there is one.",
       "queries.safetensors"});
  table->Parsed("device", &settings->device, ParseDeviceChoice, FormatDeviceChoice,
                {"What to compute on: auto (the first GPU where there is a usable one, else the "
                 "CPU), cpu, cuda or cuda:N.",
                 "cuda:1"});
  table->Choice("rotate_keys", &settings->rotate_keys, KeyRotationChoices(),
                "Store keys after a Hadamard transform of each head, which spreads outliers that "
                "fp8 and 4 bits would pay for; auto: where head_dim is a power of two.");
  std::vector<std::pair<std::string, std::string>> shapes = {{"none", ""}};
  for (const std::string& name : KnownShapeNames()) shapes.emplace_back(name, name);
  table->Choice("synthetic_weights", &settings->synthetic_weights, std::move(shapes),
                "Instead of a model: random weights in the shape of a published one. For speed "
                "only; what it says means nothing.");
  table->Conflict(
      {"model", "synthetic_weights"},
      [settings] { return !settings->model.empty() && !settings->synthetic_weights.empty(); },
      "a worker has one model: either a folder or random weights");
  table->Integer("threads", &settings->threads, {0, 1024},
                 "Threads of the matrix products and kernels on the CPU; 0 takes every core.");
}

void AddPolicies(SettingsTable* table, WorkerSettings* settings) {
  table->Section("Policies");
  table->List(
      "policies", &settings->policies, {0, 16},
      {"Policies that requests may name. By default those that take no memory of their own: "
       "h2o and longflow take 4 bytes a slot and lane, rkv the newest 8 queries of a chain.",
       "full,thinkv,rkv"});
  PolicyChoice& choice = settings->default_policy;
  std::vector<std::pair<std::string, std::string>> names = {{"auto", ""}};
  for (const std::string& name : PolicyNames()) names.emplace_back(name, name);
  table->Choice(
      "default_policy", &choice.name, std::move(names),
      "The policy of requests that name none; auto: anticipate where there is a codebook, else "
      "thinkv, else the first of --policies.");
  table->Integer(
      "default_budget", &choice.budget_tokens, {0, limits::kPositionMax},
      "The default's budget: tokens that may stay of a chain, prompt apart; 0: the policy's own.");
  table->Integer(
      "default_window", &choice.window_tokens, {0, kWindowTokensMax},
      "Tokens from one choice of the default to the next, a multiple of 16; 0: the policy's own.");
  table->Parsed(
      "default_formats", &choice.formats, ParseFormats, FormatFormats,
      {"Precision of the default's pages: bf16, fp8, nvfp4, ternary, int4, a K/V pair, R4E4T2, "
       "or R=...,E=...,T=...; by default the policy's own.",
       "nvfp4/ternary"});
  table->Map("tenants", &settings->tenants, {"policy", "budget", "window", "formats"},
             SetTenantField, ShowTenant,
             {"Other defaults for tenants, by name. One without a policy has the worker's default, "
              "changed as it says.",
              "{acme: {policy: full}, batch: {budget: 256}}"});
}

void AddNetwork(SettingsTable* table, WorkerSettings* settings) {
  table->Section("Network");
  table->Address("listen", &settings->listen, "Where clients connect; port 0 takes any free one.");
  table->Address("metrics_listen", &settings->metrics_listen,
                 "Where /metrics, /livez, /readyz and /statusz are served.");
  table->Text(
      "store", &settings->store,
      {"The store shard to report to; without one the worker plans by itself.", "127.0.0.1:7401"});
  table->Text("name", &settings->name, {"The worker's name in status and logs.", "decode-0"});
  table->Text("credential", &settings->credential, "What the store asks for, if it does.");
  table->Duration(
      "heartbeat", &settings->heartbeat, {milliseconds(10), minutes(1)},
      {"Interval of heartbeats with the store; three silent ones end a session.", "1s"});
}

void AddCacheAndBatch(SettingsTable* table, WorkerSettings* settings) {
  table->Section("Cache and batch");
  table->Bytes("pool_bytes", &settings->pool_bytes, {1ull << 20, 1ull << 44},
               {"Size of the page pool, allocated at start.", "4GiB"});
  table->Integer("batch_max", &settings->batch_max, {1, 1024}, "Chains that run at once.");
  table->Integer("waiting_max", &settings->waiting_max, {1, 1 << 20},
                 "Admitted requests that may wait for room; more are refused.");
  table->Integer("rows_max", &settings->rows_max, {16, 1 << 16},
                 "Tokens one step may add, all chains together.");
  table->Conflict(
      {"batch_max", "rows_max"},
      [settings] { return settings->rows_max < settings->batch_max + 15; },
      "rows_max must be at least batch_max + 15, so that a prompt is read beside a full batch");
}

void AddPlansAndProcess(SettingsTable* table, WorkerSettings* settings) {
  table->Section("Plans");
  table->Switch("lockstep", &settings->lockstep,
                "Wait for the store's plan at every group boundary. Exact and repeatable; slower.");
  table->Duration("lockstep_deadline", &settings->lockstep_deadline, {milliseconds(1), minutes(10)},
                  "How long a lockstep worker waits before it plans by itself.");
  table->Section("Process");
  table->Duration("drain_timeout", &settings->drain_timeout, {seconds(0), minutes(60)},
                  "After SIGTERM: how long running chains may go on.");
  AddLogSettings(table, &settings->log);
}

}  // namespace

std::unique_ptr<SettingsTable> NewWorkerSettingsTable(WorkerSettings* settings) {
  auto table = std::make_unique<SettingsTable>(
      "palimpsest-decode", "A decode worker: serves chains of thought from a compressed cache.");
  AddModel(table.get(), settings);
  AddPolicies(table.get(), settings);
  AddNetwork(table.get(), settings);
  AddCacheAndBatch(table.get(), settings);
  AddPlansAndProcess(table.get(), settings);
  table->Example("--model lab/reasoner/model",
                 "serve the shipped reasoner without a store, on 127.0.0.1:7501");
  table->Example("--model lab/reasoner/model --store 127.0.0.1:7401 --pool-bytes 4GiB",
                 "report to a shard and take its plans");
  table->Example("--model lab/reasoner/model --tenants acme.policy=full,batch.budget=256",
                 "give two tenants defaults of their own");
  table->Example("--synthetic-weights llama-3-8b --device cuda --pool-bytes 32GiB",
                 "measure speed at full size, without any weights");
  return table;
}

}  // namespace palimpsest
