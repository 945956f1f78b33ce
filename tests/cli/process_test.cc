// SPDX-License-Identifier: Apache-2.0
// The real binary as its user has it: arguments, exit codes, what is said where, and the demo end
// to end, against the simulated worker always and against the real one where it is built.
#include "tests/cli/process.h"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace palimpsest::cli {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr char kFast[] = "rate=20000,chain=300";

TEST(Arguments, NoneUnknownAndMistypedVerbsGetUsageOnStderr) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{}, {"statsu"}, {"frobnicate"}, {"--frob"}}) {
    const Outcome outcome = Palimpsest(arguments);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_THAT(outcome.out, IsEmpty());
    EXPECT_THAT(outcome.err, HasSubstr("USAGE"));
  }
  EXPECT_THAT(Palimpsest({"statsu"}).err, HasSubstr("did you mean status?"));
}

TEST(Arguments, HelpIsOnStdoutAndHasExamples) {
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"--help"},
                                                    {"help"},
                                                    {"demo", "--help"},
                                                    {"eval", "--help"},
                                                    {"status", "--help"},
                                                    {"calibrate", "--help"},
                                                    {"help", "demo"}}) {
    const Outcome outcome = Palimpsest(arguments);
    EXPECT_EQ(outcome.code, 0);
    EXPECT_THAT(outcome.out, HasSubstr("EXAMPLES"));
    EXPECT_THAT(outcome.out, HasSubstr("EXIT CODES"));
    EXPECT_THAT(outcome.err, IsEmpty());
  }
  EXPECT_THAT(Palimpsest({"version"}).out, HasSubstr("palimpsest "));
}

TEST(Arguments, WrongValuesNameTheFlagAndWhatIsAllowed) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"demo", "--polcy", "full"}, "did you mean --policy?"},
      {{"demo", "--policy", "fulll"}, "expected one of anticipate, full"},
      {{"demo", "--budget", "-1"}, "--budget: '-1' is not a number of tokens"},
      {{"demo", "--budget", "1e99"}, "is not a number of tokens"},
      {{"demo", "--budget", "2"}, "--budget: '2' is not a number of tokens from 16"},
      {{"demo", "--bytes", "0"}, "--bytes: '0' is not a percentage above 0"},
      {{"demo", "--problems", "0"}, "expected at least 1"},
      {{"demo", "--problems", "/nonexistent.jsonl"}, "No such file"},
      {{"demo", "--problems", "100000"}, "only"},
      {{"demo", "--model", "/tmp"}, "holds no config.json"},
      {{"demo", "--formats", "int3"}, "expected one of bf16"},
      {{"demo", "--worker", "127.0.0.1:1", "--lockstep"}, "start it with --lockstep"},
      {{"status", "--worker", "nonsense"}, "--worker: "},
      {{"status", "--timeout", "5"}, "500ms"},
      {{"calibrate", "--out", "/nonexistent/x.json"}, "cannot be written to"},
      {{"calibrate", "--codebook", "/nonexistent/x"}, "--codebook: the folder"},
      {{"calibrate", "--codebook-queries", "40"}, "must be a multiple of 16"},
      {{"calibrate", "--query-samples", "128"}, "at least as many query_samples"},
      {{"calibrate", "--problems", "65"}, "expected 1 to 64, or a file"},
      {{"calibrate", "--device", "gpu"}, "'gpu' is no device"},
      {{"calibrate", "--model", "/nonexistent", "--problems", "1"}, "/nonexistent"},
  };
  for (const auto& [arguments, expected] : cases) {
    const Outcome outcome = Palimpsest(arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_THAT(outcome.out, IsEmpty());
    EXPECT_THAT(outcome.err, HasSubstr(expected));
  }
}

TEST(Arguments, ABadProblemFileIsToldByLine) {
  const std::string path = Folder() + "/bad.jsonl";
  std::ofstream(path) << R"({"id": "a", "numbers": [3, 2], "goal": 5, "prompt": "<bos>"})"
                      << "\n{\n";
  EXPECT_THAT(Palimpsest({"demo", "--problems", path}).err, HasSubstr("bad.jsonl:2: not a JSON"));
}

TEST(Status, NobodyThereIsFailureAndSaysWhatToDo) {
  const Outcome outcome =
      Palimpsest({"status", "--store", "127.0.0.1:1", "--worker", "127.0.0.1:1"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.out, testing::StartsWith("unhealthy"));
  EXPECT_THAT(outcome.out, HasSubstr("nothing listens there. Start palimpsest-kvstore"));
  EXPECT_THAT(outcome.out, HasSubstr("?"));
}

TEST(Status, AWorkerIsHealthyAndAMissingStoreIsNot) {
  Process worker(SIMULATED_WORKER, {}, {{"PALIMPSEST_SIMULATION", kFast}});
  const std::string endpoint = worker.Endpoint();
  const Outcome healthy = Palimpsest({"status", "--worker", endpoint, "--sequences"});
  EXPECT_EQ(healthy.code, 0) << healthy.err;
  EXPECT_THAT(healthy.out, testing::StartsWith("healthy"));
  const Outcome half =
      Palimpsest({"status", "--worker", endpoint, "--store", "127.0.0.1:1", "--format", "json"});
  EXPECT_EQ(half.code, 10);
  const auto json = nlohmann::json::parse(half.out);
  EXPECT_FALSE(json["healthy"].get<bool>());
  EXPECT_FALSE(json["stores"][0]["reachable"].get<bool>());
  EXPECT_TRUE(json["workers"][0]["tokens_per_second"].is_number());
}

TEST(Status, TellsAnotherKindOfProcessFromAnotherProtocol) {
  Process worker(SIMULATED_WORKER, {}, {{"PALIMPSEST_SIMULATION", kFast}});
  const Outcome kind = Palimpsest({"status", "--store", worker.Endpoint()});
  EXPECT_EQ(kind.code, 1);
  EXPECT_THAT(kind.out, HasSubstr("another kind of process"));
}

TEST(Status, ASilentProcessTimesOut) {
  Process worker(SIMULATED_WORKER, {}, {{"PALIMPSEST_SIMULATION", "silent=1"}});
  const auto start = std::chrono::steady_clock::now();
  const Outcome outcome =
      Palimpsest({"status", "--worker", worker.Endpoint(), "--timeout", "300ms"});
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.out, HasSubstr("stayed silent for 300ms"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(Demo, EndsInATrueTable) {
  const Outcome outcome = Palimpsest({"demo", "--problems", "2", "--verbose"}, kFast);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("2/2 1.00"));
  for (const char* policy : {"full ", "anticipate k=", "thinkv k="}) {
    EXPECT_THAT(outcome.out, HasSubstr(policy));
  }
  EXPECT_THAT(outcome.out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(outcome.err, Not(HasSubstr("\x1b")));
}

TEST(Demo, JsonIsOneDocumentWithNumbers) {
  const Outcome outcome =
      Palimpsest({"demo", "--problems", "3", "--policy", "full", "--format", "json"}, kFast);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  ASSERT_EQ(json["runs"].size(), 1u);
  EXPECT_EQ(json["runs"][0]["accuracy"], 1.0);
  EXPECT_EQ(json["runs"][0]["sequences_lost"], 0);
}

TEST(Demo, WrongAnswersAndLostChainsAreCounted) {
  const Outcome outcome = Palimpsest(
      {"demo", "--problems", "4", "--policy", "thinkv", "--budget", "64", "--format", "json"},
      absl::StrCat(kFast, ",wrong=2,fail=3"));
  EXPECT_EQ(outcome.code, 0);
  const auto runs = nlohmann::json::parse(outcome.out)["runs"];
  ASSERT_EQ(runs.size(), 1u);  // a budget is instead of the usual share of bytes
  const auto& run = runs[0];
  EXPECT_EQ(run["sequences_lost"], 1);
  EXPECT_EQ(run["right"], 2);
  EXPECT_THAT(outcome.err, HasSubstr("the simulation was asked to fail"));
}

TEST(Demo, WaitsForABusyWorkerAndKeepsItsBatch) {
  const Outcome outcome =
      Palimpsest({"demo", "--problems", "5", "--policy", "full", "--batch", "2"},
                 absl::StrCat(kFast, ",busy=1"));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("5/5"));
}

TEST(Demo, ARefusedRequestIsOneLineAndExitCode3) {
  const Outcome outcome = Palimpsest({"demo", "--problems", "2"}, "refuse=1");
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("error: worker refused problem"));
}

TEST(Demo, ADyingWorkerIsNamedWithItsSignal) {
  const Outcome outcome = Palimpsest({"demo", "--problems", "2"}, "rate=1000,die=200");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("was killed by signal 9"));
  EXPECT_THAT(outcome.out, IsEmpty());
}

TEST(Demo, AWorkerThatCannotStartIsQuoted) {
  const Outcome outcome =
      Process(PALIMPSEST, {"demo", "--problems", "2"},
              {{"PALIMPSEST_BIN", SimulatedPrograms()}, {"PALIMPSEST_SIMULATION_FAILS", "1"}})
          .Wait();
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("ended with exit code 2; its last words: error: model"));
}

TEST(Demo, MissingProgramsAreToldWithTheNextStep) {
  const Outcome outcome =
      Process(PALIMPSEST, {"demo"}, {{"PALIMPSEST_BIN", "/nonexistent"}}).Wait();
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("palimpsest-kvstore: not found in /nonexistent"));
}

TEST(Demo, GivesUpInTime) {
  const Outcome outcome =
      Palimpsest({"demo", "--problems", "1", "--timeout", "1s"}, "rate=10,chain=3000");
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("the demo is not done after --timeout"));
}

// Processes whose parent is `parent`.
std::vector<pid_t> ChildrenOf(pid_t parent) {
  std::istringstream text(Slurp(absl::StrCat("/proc/", parent, "/task/", parent, "/children")));
  std::vector<pid_t> children;
  for (pid_t child = 0; text >> child;) children.push_back(child);
  return children;
}

void ExpectNoSurvivor(int signal_number) {
  Process demo(
      PALIMPSEST, {"demo", "--problems", "2"},
      {{"PALIMPSEST_BIN", SimulatedPrograms()}, {"PALIMPSEST_SIMULATION", "rate=100,chain=3000"}});
  std::vector<pid_t> children;
  for (int i = 0; i < 500 && children.size() < 2; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    children = ChildrenOf(demo.pid());
  }
  ASSERT_EQ(children.size(), 2u);
  kill(demo.pid(), signal_number);
  EXPECT_EQ(demo.Wait().signal, signal_number);
  for (const pid_t child : children) {
    for (int i = 0; i < 200 && kill(child, 0) == 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_NE(kill(child, 0), 0) << "a child outlives signal " << signal_number;
  }
}

TEST(Demo, NoChildOutlivesCtrlC) { ExpectNoSurvivor(SIGINT); }
TEST(Demo, NoChildOutlivesTermination) { ExpectNoSurvivor(SIGTERM); }
TEST(Demo, NoChildOutlivesBeingKilled) { ExpectNoSurvivor(SIGKILL); }

TEST(Pipes, AReaderThatGoesAwayIsNoError) {
  const std::string command = absl::StrCat(
      "set -o pipefail; ", PALIMPSEST, " demo --help | head -1 >/dev/null; exit ${PIPESTATUS[0]}");
  const Outcome outcome = Process("/bin/bash", {"-c", command}).Wait();
  EXPECT_TRUE(outcome.code == 0 || outcome.code == 128 + SIGPIPE) << outcome.code;
  EXPECT_THAT(outcome.err, IsEmpty());
}

// The whole thing, where both servers are built beside the command line.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr char kRealProblems[] = "1";  // a problem takes a minute there
#else
constexpr char kRealProblems[] = "2";
#endif
TEST(RealDemo, ProblemsEndToEnd) {
  const std::filesystem::path folder = std::filesystem::path(PALIMPSEST).parent_path();
  if (!std::filesystem::exists(folder / "palimpsest-decode") ||
      !std::filesystem::exists(folder / "palimpsest-kvstore") ||
      !std::filesystem::exists("lab/reasoner/model/model.safetensors")) {
    GTEST_SKIP() << "palimpsest-decode, palimpsest-kvstore or the reasoner's weights are not here";
  }
  const Outcome outcome =
      Process(PALIMPSEST,
              {"demo", "--problems", kRealProblems, "--policy", "full", "--policy", "thinkv",
               "--budget", "512", "--format", "json", "--verbose", "--pool-bytes", "64MiB"})
          .Wait();
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  ASSERT_EQ(json["runs"].size(), 2u);
  EXPECT_EQ(json["runs"][0]["accuracy"], 1.0);
  EXPECT_LT(json["runs"][1]["cache_mean_percent"], json["runs"][0]["cache_mean_percent"]);
  for (const auto& run : json["runs"]) EXPECT_EQ(run["sequences_lost"], 0);
}

}  // namespace
}  // namespace palimpsest::cli
