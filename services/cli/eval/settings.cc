// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/settings.h"

#include "common/base/limits.h"
#include "services/cli/grid/settings.h"

namespace palimpsest::cli {
namespace {

void AddProblems(SettingsTable* table, EvalSettings* settings) {
  table->Section("Model and problems");
  table->Text("model", &settings->model,
              {"Hugging Face folder; by default the shipped reasoner.", "lab/reasoner/model"});
  table->Text("problems", &settings->problems,
              {"JSON lines: the reasoner's problems, or any with a question (`problem`, "
               "`question`, `messages`, or `prompt` as it stands) and its `answer`.",
               "aime2024.jsonl"});
  table->Integer("limit", &settings->choice.limit, {0, 100'000},
                 "The first so many of the problems that fit; 0: all.");
  table->Integer("min_tokens", &settings->choice.min_tokens, {0, limits::kPositionMax},
                 "Only problems whose reference chain (`chain_tokens`) is at least so long.");
  table->Integer("max_tokens", &settings->choice.max_tokens, {0, limits::kPositionMax},
                 "And at most so long; 0: no bound.");
  table->Text("instruction", &settings->instruction,
              {"Added to every `problem` and `question`; not to a `prompt`.", "Answer: X"});
  table->Choice<ChatStyle>("chat", &settings->chat,
                           {{"auto", ChatStyle::kAuto},
                            {"plain", ChatStyle::kPlain},
                            {"chatml", ChatStyle::kChatMl},
                            {"deepseek", ChatStyle::kDeepSeek},
                            {"llama3", ChatStyle::kLlama3}},
                           "How a question is put to the model; auto goes by its tokens.");
  table->Parsed("answer", &settings->answer, ParseAnswerRule,
                [](const AnswerRule& rule) { return ToString(rule); },
                {"Where the answer stands, the last one counts: boxed (\\boxed{...}), after:TEXT "
                 "(the rest of "
                 "its line) or regex:PATTERN.",
                 "after:Answer:"});
  table->Section("Chains");
  table->Integer("max_new_tokens", &settings->max_new_tokens, {0, limits::kPositionMax},
                 "Where a chain is cut off; 0: a quarter beyond its reference chain, or at 32,768 "
                 "tokens where there is none.");
  table->Integer("expect_tokens", &settings->expect_tokens, {0, limits::kPositionMax},
                 "For --bytes: how long chains are on average, where the problems do not say. A "
                 "run of --policy full tells.");
  table->Integer("samples", &settings->samples, {1, 1024}, "Chains a problem.");
  table->Real("temperature", &settings->temperature, {0, 10},
              "0: the most likely token. Reasoning models want 0.6.");
  table->Integer("top_k", &settings->top_k, {0, 1 << 20}, "0: no limit.");
  table->Real("top_p", &settings->top_p, {0.01, 1}, "Nucleus.");
  table->Real("min_p", &settings->min_p, {0, 1}, "Least probability, of the most likely token's.");
  table->Integer("seed", &settings->seed, {0, INT64_MAX},
                 "Every problem and sample has its own, the same at every point.");
}

void AddPlace(SettingsTable* table, EvalSettings* settings) {
  table->Section("Where to run");
  table->Text("worker", &settings->fleet.worker,
              {"A running worker to use instead of starting one; it must serve the policies.",
               "127.0.0.1:7501"});
  table->Text("device", &settings->device, {"Of the worker: auto, cpu, cuda or cuda:N.", "cuda:1"});
  table->Integer("batch", &settings->batch, {1, 1000}, "Chains that run at once.");
  table->Bytes("pool_bytes", &settings->fleet.pool_bytes, {1ull << 20, 1ull << 44},
               {"Size of the worker's page pool. A full one would evict on its own.", "16GiB"});
  table->Integer("threads", &settings->fleet.threads, {0, 1024},
                 "Of the worker; 0 takes every core.");
  table->Switch("store", &settings->fleet.store,
                "Start a shard, too, and take its plans; else the worker plans by itself.");
  table->Switch("lockstep", &settings->fleet.lockstep, "With --store: wait for every plan.");
  table->Text(
      "calibration", &settings->fleet.calibration,
      {"File made by `palimpsest calibrate`, for thinkv; by default calibration.json of the "
       "model, where there is one.",
       "calibration.json"});
  table->Text("codebook", &settings->codebook,
              {"File made by `palimpsest calibrate`, for anticipate; by default "
               "queries.safetensors of the model, where there is one.",
               "queries.safetensors"});
  table->Choice(
      "rotate_keys", &settings->fleet.rotate_keys, KeyRotationChoices(),
      "Whether keys are stored after a Hadamard transform of each head; auto: as a worker does "
      "by itself.");
  table->Duration(
      "timeout", &settings->timeout, {std::chrono::seconds(1), std::chrono::hours(24 * 30)},
      {"Stops after this time, reports what there is, and ends with exit code 4.", "8m"});
}

void AddOutput(SettingsTable* table, EvalSettings* settings) {
  table->Section("Output");
  table->Text(
      "out", &settings->out,
      {"A file that gets a line for each chain as it ends. Run again with it, and only what "
       "is missing is run. The grid may grow; model, problems and sampling may not change.",
       "results.jsonl"});
  table->Switch("run", &settings->run, "--no-run: only report what --out holds.");
  table->Text("pictures", &settings->pictures,
              {"A folder that gets accuracy.svg and timelines.svg.", "docs/pictures"});
  table->Text("machine", &settings->machine, {"What it runs on, for the report.", "H100"});
  table->Choice<EvalFormat>(
      "format", &settings->format, {{"table", EvalFormat::kTable}, {"json", EvalFormat::kJson}},
      "On stdout: a table, or JSON lines, one a point; progress and messages go to stderr.");
  table->Switch("quiet", &settings->quiet, "No progress.");
}

void AddConflicts(SettingsTable* table, EvalSettings* settings) {
  const auto attached = [settings] { return !settings->fleet.worker.empty(); };
  table->Conflict(
      {"worker", "store"}, [=] { return attached() && settings->fleet.store; },
      "a running worker has its store already, or none");
  table->Conflict(
      {"lockstep", "store"}, [=] { return settings->fleet.lockstep && !settings->fleet.store; },
      "there is no plan to wait for without a store");
  table->Conflict(
      {"run", "out"}, [=] { return !settings->run && settings->out.empty(); },
      "--no-run wants a file to report on");
  table->Conflict(
      {"samples", "temperature"},
      [=] { return settings->samples > 1 && settings->temperature == 0; },
      "at temperature 0 all samples are the same");
  table->Conflict(
      {"min_tokens", "max_tokens"},
      [=] {
        return settings->choice.max_tokens > 0 &&
               settings->choice.min_tokens > settings->choice.max_tokens;
      },
      "min_tokens must not be above max_tokens");
}

}  // namespace

std::unique_ptr<SettingsTable> NewEvalSettingsTable(EvalSettings* settings) {
  auto table = std::make_unique<SettingsTable>(
      "palimpsest eval",
      "Has a model solve problems from caches that policies compress, and reports how often it is "
      "right, at how many bytes, and what else changed.");
  AddGridSettings(table.get(), &settings->points);
  AddProblems(table.get(), settings);
  AddPlace(table.get(), settings);
  AddOutput(table.get(), settings);
  AddConflicts(table.get(), settings);
  table->Example("--bytes 5,10,20 --limit 32 --max-tokens 3000 --out build/eval.jsonl",
                 "the shipped reasoner on 32 problems; run it again and it goes on where it was");
  table->Example("--policy full --formats bf16,fp8,int4,ternary --limit 64",
                 "what quantisation alone costs");
  table->Example(
      "--model DeepSeek-R1-Distill-Qwen-1.5B --problems aime2024.jsonl --policy full,thinkv,rkv "
      "--budget 1024,2048 --temperature 0.6 --top-p 0.95 --samples 8 --batch 128 --pool-bytes "
      "40GiB "
      "--out aime.jsonl",
      "a model and problems of yours");
  table->Example("--no-run --out aime.jsonl --pictures . --format json",
                 "report and draw what a file holds, without a model");
  return table;
}

}  // namespace palimpsest::cli
