// SPDX-License-Identifier: Apache-2.0
#include "services/cli/grid/settings.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace palimpsest::cli {
namespace {

std::string PolicyHelp() {
  std::string help = "What to compare; repeat it or separate by commas.";
  for (const std::string& name : PolicyNames()) {
    const absl::StatusOr<std::string> text = PolicyDescription(name);
    if (text.ok()) absl::StrAppend(&help, " ", name, ": ", *text, ".");
  }
  return help;
}

}  // namespace

void AddGridSettings(SettingsTable* table, GridChoice* choice) {
  table->Section("What to compare");
  table->List("policy", &choice->policy, {1, 16}, {PolicyHelp(), "full,thinkv"});
  table->List("bytes", &choice->bytes, {0, 64},
              {"Share of the full cache's bytes that a policy may hold, in per cent, averaged over "
               "time and counting everything. The budget in tokens that comes nearest is found by "
               "running the policy without a model on chains as long as those to come; what was "
               "held in truth is reported.",
               "2.5,5,10"});
  table->List("budget", &choice->budget, {0, 64},
              {"The same as tokens of a chain, prompt apart.", "512,1024"});
  table->List(
      "windows", &choice->windows, {0, 16},
      {"Tokens between two choices of a policy, a multiple of 16, instead of its own.", "64,128"});
  table->List("formats", &choice->formats, {0, 16},
              {"Precisions of the pages: bf16, fp8, nvfp4, ternary, int4, K/V pairs, R4E4T2, "
               "R=...,E=...,T=..., or default for each policy's own. With --policy full: what "
               "quantisation alone costs.",
               "default,nvfp4/ternary"});
}

}  // namespace palimpsest::cli
