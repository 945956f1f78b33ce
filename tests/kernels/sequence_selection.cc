// SPDX-License-Identifier: Apache-2.0
// The part of ModelSequence that says which tokens go: anneals, and eviction in Attend.
#include <algorithm>
#include <cmath>

#include "common/base/check.h"
#include "gtest/gtest.h"
#include "kernels/cpu/codec.h"
#include "kernels/cpu/hadamard.h"
#include "kernels/random_score.h"
#include "tests/kernels/sequence_model.h"
#include "tests/kernels/tolerances.h"

namespace palimpsest {
namespace {

bool ByScore(Selector selector) { return selector != Selector::kKMeansMedoids; }

// How far from the last score kept a token may be that is, or is not, kept all the same.
// `received`: how far off attention received may be, as a share of it.
double Slack(Selector selector, double score, size_t tokens, double received) {
  // What would be everybody's, were all equal: scores of R-KV are differences of such shares.
  const double share = 1.0 / static_cast<double>(tokens);
  switch (selector) {
    case Selector::kAttentionReceived:
      return received * (score + share);
    case Selector::kJointScore:
      return kScoreError * (std::fabs(score) + share);
    case Selector::kAnticipated:
      return (kAnticipatedScoreError + received) * std::fabs(score);
    default:
      return 0.0;
  }
}

}  // namespace

std::shared_ptr<const QueryCodebook> RandomCodebook(const BackendConfig& config, uint32_t queries) {
  auto book = std::make_shared<QueryCodebook>();
  book->layers = config.shape.layers;
  book->query_heads = config.query_heads;
  book->head_dim = config.shape.head_dim;
  book->queries = queries;
  Bf16Gaussian random(41);
  const size_t values = size_t{queries} * book->layers * book->query_heads * book->head_dim;
  for (size_t i = 0; i < values; ++i) book->data.push_back(FloatToBf16(random.Next(1.5f)));
  for (int c = 0; c < book->head_dim / 2; ++c) {
    book->inverse_frequencies.push_back(
        static_cast<float>(std::pow(10000.0, -2.0 * c / book->head_dim)));
  }
  book->attention_factor = 1.125f;
  return book;
}

std::vector<float> ModelSequence::Rotated(std::vector<float> head) const {
  if (!device_->config().rotate_keys) return head;
  Hadamard(absl::MakeSpan(head));
  for (float& x : head) x = Bf16ToFloat(FloatToBf16(x));
  return head;
}

void ModelSequence::KeepQueries(int layer, const float* q) {
  for (int head = 0; head < device_->query_heads(); ++head, q += shape_.head_dim) {
    const std::vector<float> kept = Rotated({q, q + shape_.head_dim});
    auto& newest = queries_[static_cast<size_t>(layer) * device_->query_heads() + head];
    newest.emplace_back(kept.begin(), kept.end());
    if (newest.size() > device_->config().query_window) newest.pop_front();
  }
}

std::vector<reference::Vector> ModelSequence::GroupQueries(const float* q, int head) const {
  const int group = device_->query_heads() / shape_.kv_heads;
  std::vector<reference::Vector> queries;
  for (int g = head * group; g < (head + 1) * group; ++g) {
    queries.emplace_back(q + g * shape_.head_dim, q + (g + 1) * shape_.head_dim);
  }
  return queries;
}

void ModelSequence::JudgeTokens(int layer, const float* q) {
  const SlotScore carried = SlotScoreOf(selector_);
  if (carried == SlotScore::kNone) return;
  std::vector<std::pair<uint32_t, double>> candidates;  // of the layer: position, score
  for (int head = 0; head < shape_.kv_heads; ++head) {
    const std::vector<ModelToken*> tokens = VisibleTokens(layer, head, open_count_ + 1);
    const std::vector<reference::Token> seen = Attended(layer, head, open_count_ + 1);
    reference::Vector masses(tokens.size(), 0.0);
    for (const reference::Vector& query : GroupQueries(q, head)) {
      const reference::Vector weights = reference::AttentionWeights(query, seen, device_->scale());
      for (size_t i = 0; i < masses.size(); ++i) masses[i] += weights[i];
    }
    const size_t sealed = tokens.size() - open_count_ - 1;
    size_t next = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (carried == SlotScore::kAttentionReceived) tokens[i]->score += masses[i];
      if (i >= sealed || tokens[i]->position < evict_from_) continue;
      if (head == 0) candidates.emplace_back(tokens[i]->position, 0.0);
      KV_CHECK(candidates[next].first == tokens[i]->position);
      candidates[next++].second += masses[i] * tokens[i]->score;
    }
  }
  if (evict_from_ != kNoEviction) CheckEviction(layer, candidates);
}

void ModelSequence::CheckEviction(int layer,
                                  const std::vector<std::pair<uint32_t, double>>& candidates) {
  const std::vector<uint8_t> pool = device_->ReadPages();
  std::vector<uint32_t> gone;
  for (int head = 0; head < shape_.kv_heads; ++head) {
    std::vector<uint32_t> of_head;
    for (const Thought thought : kThoughts) {
      const std::vector<uint32_t> of_class = TakeOver(thought, layer, head, pool);
      of_head.insert(of_head.end(), of_class.begin(), of_class.end());
    }
    ASSERT_EQ(of_head.size(), 1u) << "layer " << layer << " head " << head;
    if (head == 0) gone = of_head;
    ASSERT_EQ(of_head, gone) << "layer " << layer << " head " << head;
  }
  double least = HUGE_VAL, of_gone = HUGE_VAL;
  for (const auto& [position, score] : candidates) {
    least = std::min(least, score);
    if (position == gone[0]) of_gone = score;
  }
  ASSERT_LE(of_gone, least * (1 + device_->adapter().score_tolerance()))
      << "layer " << layer << " position " << gone[0];
}

std::vector<uint32_t> ModelSequence::TakeOver(Thought thought, int layer, int head,
                                              const std::vector<uint8_t>& pool, Residue* residue) {
  std::vector<uint32_t> gone;
  Slots& slots = lane(layer, head).classes[Index(thought)];
  for (size_t s = 0; s < slots.size(); ++s) {
    const uint16_t mask = ReadMask(pool, thought, PlaceOf(thought, s, layer, head));
    const bool live = (mask >> s % kSlotsPerPage & 1) != 0;
    if (!slots[s] || live) continue;
    gone.push_back(slots[s]->position);
    if (residue != nullptr) residue->Add(*slots[s]);
    slots[s].reset();
  }
  return gone;
}

std::vector<ModelSequence::ModelToken*> ModelSequence::SegmentTokens(const AnnealOrder& order,
                                                                     int layer, int head) {
  std::vector<ModelToken*> tokens;
  for (auto& slot : lane(layer, head).classes[Index(order.thought)]) {
    if (slot && slot->position >= order.first_position && slot->position < order.end_position) {
      tokens.push_back(&*slot);
    }
  }
  std::sort(tokens.begin(), tokens.end(),
            [](const auto* a, const auto* b) { return a->position < b->position; });
  return tokens;
}

void ModelSequence::KeepMedoids(const AnnealOrder& order, int layer, int first, int last) {
  std::vector<reference::Vector> keys;
  for (int head = first; head < last; ++head) {
    const std::vector<ModelToken*> tokens = SegmentTokens(order, layer, head);
    keys.resize(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      keys[i].insert(keys[i].end(), tokens[i]->stored_k.begin(), tokens[i]->stored_k.end());
    }
  }
  if (keys.size() <= order.keep) return;
  std::vector<uint32_t> kept;
  if (order.keep > 0) kept = reference::KMeansMedoids(keys, order.keep);
  for (int head = first; head < last; ++head) {
    const std::vector<ModelToken*> tokens = SegmentTokens(order, layer, head);
    std::vector<uint32_t> positions;
    for (const uint32_t i : kept) positions.push_back(tokens[i]->position);
    for (auto& slot : lane(layer, head).classes[Index(order.thought)]) {
      if (slot && slot->position >= order.first_position && slot->position < order.end_position &&
          !std::binary_search(positions.begin(), positions.end(), slot->position)) {
        slot.reset();
      }
    }
  }
}

void ModelSequence::AnnealByMedoids(const AnnealOrder& order, int layer) {
  const auto positions = [&](int head) {
    std::vector<uint32_t> of_head;
    for (const ModelToken* token : SegmentTokens(order, layer, head)) {
      of_head.push_back(token->position);
    }
    return of_head;
  };
  bool same = true;
  for (int head = 1; head < shape_.kv_heads; ++head) same &= positions(head) == positions(0);
  if (same) return KeepMedoids(order, layer, 0, shape_.kv_heads);
  for (int head = 0; head < shape_.kv_heads; ++head) KeepMedoids(order, layer, head, head + 1);
}

reference::Vector ModelSequence::AnticipatedScores(const AnnealOrder& order, int layer, int head) {
  const QueryCodebook& book = *device_->config().codebook;
  const auto dim = static_cast<size_t>(shape_.head_dim);
  const int group = device_->query_heads() / shape_.kv_heads;
  reference::Vector angles;
  for (const float frequency : book.inverse_frequencies) {
    angles.push_back(static_cast<float>(next_position()) * frequency);
  }
  std::vector<reference::Vector> queries;
  const size_t first =
      (static_cast<size_t>(layer) * device_->query_heads() + head * group) * book.queries;
  for (size_t i = first; i < first + size_t{book.queries} * group; ++i) {
    reference::Vector q;
    for (size_t c = 0; c < dim; ++c) q.push_back(Bf16ToFloat(book.data[i * dim + c]));
    q = reference::Rope(q, angles, book.attention_factor);
    if (device_->config().rotate_keys) q = reference::Hadamard(q);
    for (double& x : q) x = Bf16ToFloat(FloatToBf16(static_cast<float>(x)));
    queries.push_back(q);
  }
  const AnnealOrder whole_class{.thought = order.thought, .end_position = ~uint32_t{0}};
  std::vector<reference::Token> seen;
  for (const ModelToken* token : SegmentTokens(whole_class, layer, head)) {
    seen.push_back(token->Seen());
  }
  const reference::Vector all = reference::AnticipatedScores(queries, seen, device_->scale());
  reference::Vector scores;
  for (size_t i = 0; i < seen.size(); ++i) {
    const uint32_t position = seen[i].position;
    if (position >= order.first_position && position < order.end_position) scores.push_back(all[i]);
  }
  return scores;
}

reference::Vector ModelSequence::Scores(const AnnealOrder& order, int layer, int head,
                                        uint32_t recent) {
  const std::vector<ModelToken*> tokens = SegmentTokens(order, layer, head);
  const size_t candidates = tokens.size() - recent;
  reference::Vector scores;
  switch (order.selection.selector) {
    case Selector::kAnticipated:
      scores = AnticipatedScores(order, layer, head);
      break;
    case Selector::kJointScore: {
      std::vector<reference::Token> seen;
      for (const ModelToken* token : tokens) seen.push_back(token->Seen());
      const int group = device_->query_heads() / shape_.kv_heads;
      const auto* const newest =
          &queries_[static_cast<size_t>(layer) * device_->query_heads() + head * group];
      std::vector<std::vector<reference::Vector>> queries(newest->size());
      for (size_t w = 0; w < queries.size(); ++w) {
        for (int g = 0; g < group; ++g) queries[w].push_back(newest[g][w]);
      }
      scores = reference::JointScores(queries, seen, recent, device_->scale());
      break;
    }
    default:
      for (const ModelToken* token : tokens) {
        switch (order.selection.selector) {
          case Selector::kMostRecent:
            scores.push_back(token->position);
            break;
          case Selector::kRandom:
            scores.push_back(RandomScore(static_cast<uint32_t>(layer), static_cast<uint32_t>(head),
                                         token->position));
            break;
          default:
            scores.push_back(token->score);
        }
      }
  }
  scores.resize(candidates);
  return scores;
}

void ModelSequence::AnnealByScore(const AnnealOrder& order, int layer, int head,
                                  const std::vector<uint8_t>& pool) {
  std::vector<uint32_t> positions;
  for (const ModelToken* token : SegmentTokens(order, layer, head)) {
    positions.push_back(token->position);
  }
  const auto tokens = static_cast<uint32_t>(positions.size());
  const uint32_t kept =
      order.lane_keeps.empty() ? order.keep : order.lane_keeps[layer * shape_.kv_heads + head];
  const uint32_t keep = std::min(kept, tokens);
  const uint32_t recent = std::min(RecentOf(order.selection, kept), keep);
  const uint32_t best = keep - recent;  // kept by score
  const bool choice = best > 0 && keep < tokens;
  const reference::Vector scores =
      choice ? Scores(order, layer, head, recent) : reference::Vector(tokens - recent, 0.0);

  std::vector<uint32_t> gone =
      TakeOver(order.thought, layer, head, pool,
               order.selection.residue ? &lane(layer, head).residue : nullptr);
  std::sort(gone.begin(), gone.end());
  ASSERT_EQ(gone.size(), tokens - keep) << "layer " << layer << " head " << head;
  for (const uint32_t position : gone) {
    ASSERT_TRUE(std::binary_search(positions.begin(), positions.end() - recent, position))
        << "position " << position << " is not of the segment, or recent";
  }
  if (!choice) return;
  // In order of falling score, the earlier first: the last that stays, the first that goes.
  std::vector<uint32_t> ranked(scores.size());
  for (uint32_t i = 0; i < ranked.size(); ++i) ranked[i] = i;
  std::stable_sort(ranked.begin(), ranked.end(),
                   [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
  const double limit = scores[ranked[best - 1]];
  const double slack =
      Slack(order.selection.selector, limit, tokens, device_->adapter().score_tolerance());
  for (uint32_t rank = 0; rank < ranked.size(); ++rank) {
    const uint32_t i = ranked[rank];
    const bool kept = !std::binary_search(gone.begin(), gone.end(), positions[i]);
    if (kept == (rank < best)) continue;
    const double off = std::fabs(scores[i] - limit);
    // Of equal scores the earlier stays: so no token stays that ties with the last that should.
    ASSERT_TRUE((off > 0 || !kept) && off <= slack)
        << "layer " << layer << " head " << head << " position " << positions[i] << " of score "
        << scores[i] << " was " << (kept ? "kept" : "dropped") << "; the last to stay has "
        << limit;
  }
}

void AnnealSequences(TestDevice* device, absl::Span<ModelSequence* const> sequences,
                     absl::Span<const AnnealOrder> orders) {
  std::vector<SequenceView> views;
  for (const ModelSequence* sequence : sequences) views.push_back(sequence->View());
  ASSERT_EQ(device->backend().Anneal(views, orders), absl::OkStatus());
  const std::vector<uint8_t> pool = device->ReadPages();
  for (const AnnealOrder& order : orders) sequences[order.sequence]->AnnealModel(order, pool);
  for (ModelSequence* sequence : sequences) sequence->ComparePages();
}

void ModelSequence::AnnealModel(const AnnealOrder& order, const std::vector<uint8_t>& pool) {
  for (int layer = 0; layer < shape_.layers; ++layer) {
    if (!ByScore(order.selection.selector)) {
      AnnealByMedoids(order, layer);
      continue;
    }
    for (int head = 0; head < shape_.kv_heads; ++head) AnnealByScore(order, layer, head, pool);
  }
}

}  // namespace palimpsest
