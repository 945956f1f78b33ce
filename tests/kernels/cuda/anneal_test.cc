// SPDX-License-Identifier: Apache-2.0
// After an anneal the pages are the CPU's, byte for byte.
#include <array>
#include <optional>
#include <string>

#include "tests/kernels/cuda/random_sequence.h"

namespace palimpsest {
namespace {

constexpr Thought kT = Thought::kTransition;
constexpr Thought kE = Thought::kExecution;
constexpr Thought kR = Thought::kReasoning;
constexpr uint64_t kPoolBytes = uint64_t{64} << 20;
constexpr CacheShape kSmall = {.layers = 3, .kv_heads = 3, .head_dim = 64};
constexpr CacheShape kEightB = {.layers = 2, .kv_heads = 8, .head_dim = 128};
constexpr CacheShape kOneHead = {.layers = 2, .kv_heads = 1, .head_dim = 128};

class AnnealEquality : public ::testing::TestWithParam<CacheShape> {
 protected:
  void SetUp() override {
    const absl::Status status = GpuStatus();
    if (!status.ok()) GTEST_SKIP() << status.message();
    pair_.emplace(BackendConfig{.shape = GetParam(),
                                .query_heads = GetParam().kv_heads,
                                .pool_bytes = kPoolBytes,
                                .open_groups = 8,
                                .rows_max = 16});
    source_.emplace(GetParam(), kPoolBytes);
  }

  RandomSequence NewSequence(const ClassFormats& formats, uint64_t seed) {
    return RandomSequence(&*pair_, &*source_, formats, next_open_group_++, seed);
  }
  // Orders of one sequence.
  void AnnealAndCompare(RandomSequence* sequence, const std::vector<AnnealOrder>& orders) {
    const SequenceView view = sequence->View();
    pair_->OnBoth([&](Backend& backend) { return backend.Anneal({&view, 1}, orders); });
    sequence->ExpectEqualPages();
  }

  std::optional<BackendPair> pair_;
  std::optional<PageSource> source_;
  uint32_t next_open_group_ = 0;
};

TEST_P(AnnealEquality, KMeansDownTheScheduleForEveryFormatOfKeys) {
  for (const Format k : kFormats) {
    SCOPED_TRACE(testing::Message() << "keys in " << Name(k));
    RandomSequence sequence = NewSequence(ClassFormats::Uniform({k, Format::kTernary}), 60);
    sequence.GrowClass(kR, 10);
    for (const uint32_t keep : {127u, 64u, 32u, 16u, 8u, 4u, 3u, 1u, 0u}) {
      AnnealAndCompare(&sequence,
                       {{.thought = kR, .first_position = 16, .end_position = 144, .keep = keep}});
      if (HasFailure()) return;
    }
  }
}

TEST_P(AnnealEquality, ManySegmentsOfManySequencesAtOnce) {
  std::vector<RandomSequence> all;
  std::vector<SequenceView> views;
  std::vector<AnnealOrder> orders;
  for (uint32_t i = 0; i < 6; ++i) {
    all.push_back(
        NewSequence(i % 2 == 0 ? ClassFormats::R4E4T2() : ClassFormats::Uniform({}), 70 + i));
    all[i].Grow(30);
    views.push_back(all[i].View());
    for (uint32_t first = 0; first + 90 < all[i].next_position(); first += 90) {
      for (const Thought thought : kThoughts) {
        orders.push_back(
            {.sequence = i,
             .thought = thought,
             .first_position = first,
             .end_position = first + 90,
             .keep = 2 + (first / 9 + Index(thought)) % 11,
             .selection = {first % 4 == 0 ? Selector::kKMeansMedoids : Selector::kMostRecent}});
      }
    }
  }
  ASSERT_GT(orders.size(), 32u);  // more than a launch takes
  pair_->OnBoth([&](Backend& backend) { return backend.Anneal(views, orders); });
  for (RandomSequence& sequence : all) sequence.ExpectEqualPages();
}

TEST_P(AnnealEquality, HeadsThatHoldDifferentTokensAreClusteredAlone) {
  RandomSequence sequence = NewSequence(ClassFormats::R4E4T2(), 80);
  sequence.GrowClass(kT, 2);
  sequence.GrowClass(kE, 12);
  sequence.MakeHoles(kE, 9);
  for (const uint32_t keep : {40u, 11u, 2u}) {
    AnnealAndCompare(&sequence, {{.thought = kE, .end_position = 200, .keep = keep},
                                 {.thought = kT, .end_position = 200, .keep = keep / 2}});
    if (HasFailure()) return;
  }
}

TEST_P(AnnealEquality, SegmentsTooLargeForSharedMemory) {
  RandomSequence sequence = NewSequence(ClassFormats::R4E4T2(), 90);
  sequence.GrowClass(kR, 20);
  AnnealAndCompare(&sequence, {{.thought = kR, .end_position = 320, .keep = 200}});
  AnnealAndCompare(&sequence, {{.thought = kR, .end_position = 320, .keep = 31}});
  RandomSequence uneven = NewSequence(ClassFormats::R4E4T2(), 91);
  uneven.GrowClass(kR, 20);
  uneven.MakeHoles(kR, 5);
  AnnealAndCompare(&uneven, {{.thought = kR, .end_position = 320, .keep = 50}});
}

TEST_P(AnnealEquality, EqualKeysKeepTheEarliest) {
  RandomSequence sequence = NewSequence(ClassFormats::R4E4T2(), 100);
  for (int group = 0; group < 6; ++group) {
    sequence.Append(kGroupTokens, /*repeat=*/true);
    sequence.Seal(kR);
  }
  AnnealAndCompare(&sequence, {{.thought = kR, .end_position = 96, .keep = 50}});
  AnnealAndCompare(&sequence, {{.thought = kR, .end_position = 96, .keep = 7}});
}

TEST_P(AnnealEquality, TheNewestOfThousandsAndOverlapsInTurn) {
  RandomSequence sequence = NewSequence(ClassFormats::R4E4T2(), 110);
  sequence.GrowClass(kT, 100);
  sequence.SkipTo(1000000);
  sequence.GrowClass(kT, 40);
  sequence.MakeHoles(kT, 60);
  const uint32_t end = sequence.next_position();
  const auto newest = [](uint32_t first, uint32_t end, uint32_t keep) {
    return AnnealOrder{.thought = kT,
                       .first_position = first,
                       .end_position = end,
                       .keep = keep,
                       .selection = {Selector::kMostRecent}};
  };
  AnnealAndCompare(&sequence, {newest(0, end, 1500)});
  // The second sees what the first has left, the third what both have.
  AnnealAndCompare(&sequence, {newest(500, end, 900), newest(100, 1300, 300), newest(0, end, 800)});
  AnnealAndCompare(&sequence, {newest(0, ~uint32_t{0}, 1), newest(0, 5, 0)});
  AnnealAndCompare(&sequence, {newest(0, ~uint32_t{0}, 0)});
}

// What takes long and is the same with more lanes.
class AnnealOfFewLanes : public AnnealEquality {};

TEST_P(AnnealOfFewLanes, AtRandomWhetherOrNotSharedMemoryHasRoom) {
  RandomSequence sequence = NewSequence(ClassFormats::R4E4T2(), 120);
  sequence.GrowClass(kT, 40);
  const auto at_random = [&](uint32_t keep, uint32_t recent) {
    return AnnealOrder{.thought = kT,
                       .first_position = 40,
                       .end_position = sequence.next_position(),
                       .keep = keep,
                       .selection = {Selector::kRandom, recent}};
  };
  AnnealAndCompare(&sequence, {at_random(500, 0), at_random(480, 100), at_random(300, 300)});
  sequence.GrowClass(kT, 520);  // some 8,600 slots
  AnnealAndCompare(&sequence, {at_random(8000, 17), at_random(2000, 1000), at_random(5, 1)});
}

std::string ShapeName(const testing::TestParamInfo<CacheShape>& info) {
  switch (info.param.kv_heads) {
    case 3:
      return "ThreeHeads";
    case 8:
      return "EightB";
    default:
      return "OneHead";
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, AnnealEquality, testing::Values(kSmall, kEightB, kOneHead),
                         ShapeName);
INSTANTIATE_TEST_SUITE_P(Shapes, AnnealOfFewLanes, testing::Values(kOneHead), ShapeName);

}  // namespace
}  // namespace palimpsest
