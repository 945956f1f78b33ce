// SPDX-License-Identifier: Apache-2.0
// palimpsest: the front door. Finds the verb and hands over.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/build_info.h"
#include "common/base/exit_codes.h"
#include "common/base/text.h"
#include "services/cli/command.h"
#include "services/cli/terminal.h"

namespace palimpsest::cli {
namespace {

int RunVersion(const std::vector<std::string>& arguments);
int RunHelp(const std::vector<std::string>& arguments);

struct Verb {
  absl::string_view name;
  int (*run)(const std::vector<std::string>& arguments);
  absl::string_view summary;
};

constexpr std::array<Verb, 7> kVerbs = {{
    {"demo", RunDemo, "solve problems from a compressed cache, and see what it saves and costs"},
    {"eval", RunEval, "judge policies by problems: accuracy against bytes"},
    {"status", RunStatus, "is it healthy, and where is what"},
    {"calibrate", RunCalibrate, "find the layers and thresholds that tell kinds of thought apart"},
    {"likelihood", RunLikelihood, "how far a compressed cache changes what a model predicts"},
    {"version", RunVersion, "what this program was built from"},
    {"help", RunHelp, "this text, or that of a verb: palimpsest help demo"},
}};

std::string Usage() {
  std::string text =
      "Palimpsest keeps long chains of thought in a compressed KV cache.\n\n"
      "USAGE\n  palimpsest VERB [--flag VALUE ...]\n\nVERBS\n";
  for (const Verb& verb : kVerbs)
    absl::StrAppendFormat(&text, "  %-10s %s\n", verb.name, verb.summary);
  absl::StrAppend(&text,
                  "\nEXAMPLES\n"
                  "  palimpsest demo                        see it work, in a few minutes\n"
                  "  palimpsest demo --policy full --format json\n"
                  "  palimpsest status --watch              keep looking at running processes\n"
                  "  palimpsest demo --help                 every flag of a verb\n"
                  "\nEXIT CODES\n"
                  "  0 ok   1 failed   2 usage or configuration   3 refused   4 timeout   "
                  "10 reachable but unhealthy\n");
  return text;
}

const Verb* Find(absl::string_view name) {
  const auto found = std::find_if(kVerbs.begin(), kVerbs.end(),
                                  [name](const Verb& verb) { return verb.name == name; });
  return found == kVerbs.end() ? nullptr : &*found;
}

int UnknownVerb(const std::string& name) {
  std::vector<std::string> names;
  for (const Verb& verb : kVerbs) names.emplace_back(verb.name);
  const std::string nearest = Nearest(name, names);
  WriteAll(STDERR_FILENO,
           absl::StrCat("error: unknown verb ", Quoted(name),
                        nearest.empty() ? "" : absl::StrCat("; did you mean ", nearest, "?"),
                        "\n\n", Usage()));
  return kExitUsage;
}

int RunVersion(const std::vector<std::string>& arguments) {
  if (!arguments.empty() && arguments[0] != "--help" && arguments[0] != "-h") {
    return Fail(absl::InvalidArgumentError("version takes no arguments"));
  }
  PrintResult(arguments.empty()
                  ? absl::StrCat("palimpsest ", BuildVersion(), " (", BuildCommit(), ")\n")
                  : "USAGE\n  palimpsest version\n\nPrints the version and the commit it was "
                    "built from.\n");
  return kExitOk;
}

int RunHelp(const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments[0] == "help" || arguments[0].rfind("-", 0) == 0) {
    PrintResult(Usage());
    return kExitOk;
  }
  const Verb* verb = Find(arguments[0]);
  return verb == nullptr ? UnknownVerb(arguments[0]) : verb->run({"--help"});
}

int Main(const std::vector<std::string>& arguments) {
  if (arguments.empty()) {
    WriteAll(STDERR_FILENO, Usage());
    return kExitUsage;
  }
  const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
  if (arguments[0] == "--help" || arguments[0] == "-h") return RunHelp({});
  if (arguments[0] == "--version") return RunVersion({});
  const Verb* verb = Find(arguments[0]);
  return verb == nullptr ? UnknownVerb(arguments[0]) : verb->run(rest);
}

}  // namespace
}  // namespace palimpsest::cli

int main(int argc, char** argv) {
  return palimpsest::cli::Main({argv + std::min(argc, 1), argv + argc});
}
