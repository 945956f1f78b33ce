// SPDX-License-Identifier: Apache-2.0
// Golden plan traces: golden/*.txt hold events and, indented under each, what the policy planned.
// They are read by people and compared to the letter. golden/README.md has the grammar.
//
// After an intended change: PALIMPSEST_GOLDEN_UPDATE=1 <this test>, then review `git diff`.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/policy/policy.h"
#include "gtest/gtest.h"

namespace palimpsest {
namespace {

constexpr char kOutputPrefix[] = "    ";

// Plays the events of one trace and writes what came of each.
class TracePlayer {
 public:
  // Answers with the lines to stand under `line`.
  std::vector<std::string> Play(const std::string& line) {
    std::istringstream in(line.substr(0, line.find('#')));
    std::string word;
    if (!(in >> word)) return {};
    if (word == "policy") {
      in >> word;
      spec_ = DefaultSpec(word).value();
    } else if (word == "budget") {
      in >> spec_.budget_tokens;
    } else if (word == "window") {
      in >> spec_.window_tokens;
    } else if (word == "retention") {
      spec_.retention = Rest<uint32_t>(in);
    } else if (word == "layers") {
      spec_.sparsity_layers = Rest<uint32_t>(in);
    } else if (word == "theta") {
      spec_.theta = Rest<float>(in);
    } else {
      return PlayEvent(word, in);
    }
    return {};
  }

 private:
  template <typename T>
  static std::vector<T> Rest(std::istringstream& in) {
    std::vector<T> values;
    for (T value; in >> value;) values.push_back(value);
    return values;
  }

  std::vector<std::string> PlayEvent(const std::string& word, std::istringstream& in) {
    if (policy_ == nullptr) {
      absl::StatusOr<std::unique_ptr<const Policy>> policy = NewPolicy(spec_);
      if (!policy.ok()) return {std::string(policy.status().message())};
      policy_ = *std::move(policy);
    }
    if (word == "prompt") {
      uint32_t count = 0;
      in >> count;
      RecordSealed(state_, {.token_count = count, .pinned = true});
      return {Summary()};
    }
    if (word == "seal") {
      uint32_t count = 0;
      in >> count;
      return Seal(count, {});
    }
    if (word == "refresh") {
      const std::vector<float> sparsity = Rest<float>(in);
      return Seal(0, {.refresh = true, .sparsity = sparsity});
    }
    ADD_FAILURE() << "no such event: " << word;
    return {};
  }

  // `count` tokens, then the decision. A refresh has its window's last tokens in itself.
  std::vector<std::string> Seal(uint32_t count, const Observation& observation) {
    std::vector<std::string> out;
    if (observation.refresh) {
      const uint32_t written = state_.sealed_tokens() - state_.pinned_tokens() - window_start_;
      count = spec_.window_tokens - written;
    }
    for (; count > 0; count -= std::min(count, 16u)) {
      RecordSealed(state_, {.token_count = std::min(count, 16u),
                            .label = label_,
                            .starts_window = std::exchange(starts_window_, false)});
      const bool last = count <= 16;
      Apply(policy_->Decide(state_, last ? observation : Observation{}), out);
    }
    if (observation.refresh) {
      starts_window_ = true;
      window_start_ = state_.sealed_tokens() - state_.pinned_tokens();
    }
    out.push_back(Summary());
    return out;
  }

  void Apply(const Plan& plan, std::vector<std::string>& out) {
    const auto place = [this] { return absl::StrCat("at ", state_.sealed_tokens(), ": "); };
    for (const Anneal& anneal : plan.anneals) {
      out.push_back(absl::StrCat(place(), "anneal ", anneal.first_position, " keep ", anneal.keep,
                                 " demotions ", anneal.demotions));
      EXPECT_TRUE(RecordAnneal(state_, anneal).ok());
    }
    if (!plan.next_label.has_value()) return;
    label_ = *plan.next_label;
    out.push_back(absl::StrCat(place(), "next ", Letter(label_)));
  }

  std::string Summary() const {
    std::string out = absl::StrCat("live ", state_.live_tokens(), " |");
    for (const Segment& s : state_.segments) {
      absl::StrAppend(&out, " ", s.pinned ? "P" : Letter(s.label), s.live_count);
    }
    return out;
  }

  PolicySpec spec_;
  std::unique_ptr<const Policy> policy_;
  SequenceState state_;
  Thought label_ = Thought::kReasoning;
  bool starts_window_ = true;
  uint32_t window_start_ = 0;
};

std::string Read(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// The trace with the outputs that the policies give today.
std::string Replay(const std::string& text) {
  TracePlayer player;
  std::string out;
  for (const auto line : absl::StrSplit(absl::StripSuffix(text, "\n"), '\n')) {
    if (line.substr(0, sizeof(kOutputPrefix) - 1) == kOutputPrefix) continue;
    absl::StrAppend(&out, line, "\n");
    for (const std::string& result : player.Play(std::string(line))) {
      absl::StrAppend(&out, kOutputPrefix, result, "\n");
    }
  }
  return out;
}

std::vector<std::string> TraceNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(PALIMPSEST_POLICY_GOLDEN)) {
    if (entry.path().extension() == ".txt") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class GoldenTrace : public testing::TestWithParam<std::string> {};

TEST_P(GoldenTrace, PlansAreWhatTheReviewedFileSays) {
  const auto path = std::filesystem::path(PALIMPSEST_POLICY_GOLDEN) / (GetParam() + ".txt");
  const std::string recorded = Read(path);
  const std::string replayed = Replay(recorded);
  if (std::getenv("PALIMPSEST_GOLDEN_UPDATE") != nullptr) {
    std::ofstream(path) << replayed;
    GTEST_SKIP() << "rewrote " << path;
  }
  EXPECT_EQ(recorded, replayed) << "in " << path;
}

INSTANTIATE_TEST_SUITE_P(Policy, GoldenTrace, testing::ValuesIn(TraceNames()),
                         [](const auto& info) { return info.param; });

TEST(GoldenTraces, AreThere) { EXPECT_GE(TraceNames().size(), 5u); }

}  // namespace
}  // namespace palimpsest
