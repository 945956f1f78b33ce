// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/settings.h"

#include "common/base/limits.h"
#include "kernels/layout.h"
#include "services/cli/grid/settings.h"

namespace palimpsest::cli {
namespace {

void AddTexts(SettingsTable* table, LikelihoodSettings* settings) {
  table->Section("What to read");
  table->Text("model", &settings->model,
              {"Hugging Face folder of a language model; lab/agreement/make_smollm2.sh makes one.",
               "build/smollm2-135m"});
  table->List("texts", &settings->texts, {0, 1024},
              {"Texts, or folders of .txt files; by default lab/likelihood/texts.",
               "lab/likelihood/texts"});
  table->Integer("text_tokens", &settings->text_tokens, {32, limits::kPositionMax},
                 "Of each text at most so many tokens are read.");
  table->Integer("prompt_tokens", &settings->prompt_tokens, {1, limits::kPositionMax},
                 "Of them the first so many are the prompt, which no policy evicts.");
  table->Integer("every", &settings->every, {1, kGroupTokens},
                 "Compares every so many-th position only: on a GPU most time goes into moving "
                 "logits.");
  table->Text(
      "codebook", &settings->codebook,
      {"File of typical queries, made by `palimpsest calibrate`, for the policy anticipate; "
       "by default queries.safetensors in the model's folder, where there is one.",
       "queries.safetensors"});
  table->Text("calibration", &settings->calibration,
              {"File made by `palimpsest calibrate`, for the policy thinkv; by default "
               "calibration.json in the model's folder, where there is one.",
               "calibration.json"});
}

void AddPlace(SettingsTable* table, LikelihoodSettings* settings) {
  table->Section("Where to run");
  table->Parsed("device", &settings->device, ParseDeviceChoice, FormatDeviceChoice,
                {"What to compute on: auto (the first GPU where there is a usable one, else the "
                 "CPU), cpu, cuda or cuda:N.",
                 "cuda:1"});
  table->Integer("threads", &settings->threads, {0, 1024}, "Of the CPU; 0 takes every core.");
  table->Integer("batch", &settings->batch, {2, 1024},
                 "Chains at once, those of the full cache included.");
  table->Bytes("pool_bytes", &settings->pool_bytes, {0, 1ull << 44},
               {"Size of the page pool; 0: what the batch can want.", "8GiB"});
}

void AddOutput(SettingsTable* table, LikelihoodSettings* settings) {
  table->Section("Output");
  table->Text("results", &settings->results,
              {"A file that gets a JSON line for each text and point as it is found. What is in it "
               "already is not measured again.",
               "results.jsonl"});
  table->Switch("run", &settings->run,
                "--no-run: only report what --results holds, all of it; --model is its name.");
  table->Text("picture", &settings->picture,
              {"A file that gets the divergence against bytes, as SVG.", "divergence.svg"});
  table->Text("machine", &settings->machine, {"What it ran on, for the report.", "H100"});
  table->Choice<LikelihoodFormat>(
      "format", &settings->format,
      {{"table", LikelihoodFormat::kTable}, {"json", LikelihoodFormat::kJson}},
      "On stdout: a table, or JSON lines, one a point; progress and messages go to stderr.");
  table->Switch("quiet", &settings->quiet, "No progress.");
}

}  // namespace

std::unique_ptr<SettingsTable> NewLikelihoodTable(LikelihoodSettings* settings) {
  auto table = std::make_unique<SettingsTable>(
      "palimpsest likelihood",
      "Has a model read texts from a compressed cache and, side by side, from the full one, and "
      "says how far the two predict different next tokens.");
  AddGridSettings(table.get(), &settings->grid);
  table->Switch("rotate_keys", &settings->rotate_keys,
                "Store keys after a Hadamard transform of each head, which spreads outliers.");
  AddTexts(table.get(), settings);
  AddPlace(table.get(), settings);
  AddOutput(table.get(), settings);
  table->Conflict(
      {"prompt_tokens", "text_tokens"},
      [settings] { return settings->prompt_tokens + 16 > settings->text_tokens; },
      "text_tokens must be at least prompt_tokens + 16");
  table->Conflict(
      {"run", "results"}, [settings] { return !settings->run && settings->results.empty(); },
      "--no-run wants a file to report on");
  table->Example("--model build/smollm2-135m --policy full --formats fp8,nvfp4,int4",
                 "what precision alone costs");
  table->Example(
      "--model build/smollm2-135m --policy window,random,rkv --bytes 5,10,20 --results r.jsonl",
      "three policies at equal bytes; run it again and it goes on where it was");
  table->Example("--model DIR --texts my.txt --policy thinkv --budget 512 --format json",
                 "a text and a model of yours");
  table->Example("--no-run --results r.jsonl --model SmolLM2-135M --picture r.svg",
                 "report and draw what a file holds, without a model");
  return table;
}

}  // namespace palimpsest::cli
