// SPDX-License-Identifier: Apache-2.0
#include "tests/kernels/sequence_model.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"
#include "gtest/gtest.h"
#include "kernels/cpu/codec.h"

namespace palimpsest {
TestDevice::TestDevice(DeviceAdapter* adapter, const CacheShape& shape, int query_heads,
                       uint64_t pool_bytes, uint32_t open_groups, uint32_t rows_max)
    : TestDevice(adapter, {.shape = shape,
                           .query_heads = query_heads,
                           .pool_bytes = pool_bytes,
                           .open_groups = open_groups,
                           .rows_max = rows_max}) {}

TestDevice::TestDevice(DeviceAdapter* adapter, const BackendConfig& config)
    : adapter_(adapter), config_(config) {
  auto backend = adapter->NewBackend(config_);
  KV_CHECK(backend.ok());
  backend_ = *std::move(backend);
}

float TestDevice::scale() const { return 1.0f / std::sqrt(static_cast<float>(shape().head_dim)); }

PageOffset TestDevice::NewPage(PageFormat format) {
  const PageOffset page = next_page_;
  next_page_ += MakePageLayout(shape(), format).page_bytes;
  KV_CHECK(next_page_ <= config_.pool_bytes);
  return page;
}

std::vector<uint8_t> TestDevice::ReadPages() {
  std::vector<uint8_t> bytes(next_page_);
  KV_CHECK(backend_->Read(0, absl::MakeSpan(bytes)).ok());
  KV_CHECK(backend_->Synchronize().ok());
  return bytes;
}

float Bf16Gaussian::Next(float deviation) {
  return Bf16ToFloat(FloatToBf16(deviation * normal_(engine_)));
}

ModelSequence::ModelSequence(TestDevice* device, const ClassFormats& formats, uint32_t open_group,
                             uint64_t seed, Selector selector)
    : device_(device),
      shape_(device->shape()),
      formats_(formats),
      open_group_(open_group),
      selector_(selector),
      random_(seed),
      lanes_(static_cast<size_t>(shape_.lanes())),
      queries_(static_cast<size_t>(shape_.layers) * device->query_heads()),
      compare_attention_(!device->config().rotate_keys) {}

SequenceView ModelSequence::View() const {
  SequenceView view{.formats = formats_,
                    .open_group = open_group_,
                    .open_count = open_count_,
                    .open_position = open_position_,
                    .slot_score = SlotScoreOf(selector_),
                    .keeps_queries = NeedsQueries(selector_),
                    .evict_from = evict_from_};
  for (int i = 0; i < kThoughtCount; ++i) view.pages[i] = pages_[i];
  if (uneven_) view.uneven = uneven_->View();
  return view;
}

std::vector<ModelSequence::ModelToken*> ModelSequence::VisibleTokens(int layer, int head,
                                                                     size_t open) {
  std::vector<ModelToken*> tokens;
  Lane& of = lane(layer, head);
  for (Slots& slots : of.classes) {
    for (auto& slot : slots) {
      if (slot) tokens.push_back(&*slot);
    }
  }
  for (size_t i = 0; i < open; ++i) tokens.push_back(&of.open[i]);
  return tokens;
}

std::vector<reference::Token> ModelSequence::Visible(int layer, int head, size_t open) {
  std::vector<reference::Token> tokens;
  for (const ModelToken* token : VisibleTokens(layer, head, open)) tokens.push_back(token->Seen());
  return tokens;
}

std::vector<reference::Token> ModelSequence::Attended(int layer, int head, size_t open) {
  std::vector<reference::Token> tokens = Visible(layer, head, open);
  const Residue& residue = lane(layer, head).residue;
  if (residue.count > 0) tokens.push_back(residue.Mean());
  return tokens;
}

void ModelSequence::Residue::Add(const ModelToken& token) {
  k.resize(token.stored_k.size());
  v.resize(token.stored_v.size());
  for (size_t c = 0; c < k.size(); ++c) k[c] += token.stored_k[c];
  for (size_t c = 0; c < v.size(); ++c) v[c] += token.stored_v[c];
  ++count;
}

reference::Token ModelSequence::Residue::Mean() const {
  reference::Token mean{.k = k, .v = v, .count = count};
  for (double& x : mean.k) x /= count;
  for (double& x : mean.v) x /= count;
  return mean;
}

void ModelSequence::CompareRow(int layer, uint32_t index, const float* q, const float* out) {
  const int dim = shape_.head_dim;
  const int group = device_->query_heads() / shape_.kv_heads;
  std::vector<reference::Token> tokens;
  double allowed = 0;
  for (int head = 0; head < device_->query_heads(); ++head, q += dim, out += dim) {
    if (head % group == 0) {
      tokens = Attended(layer, head / group, open_count_ + index + 1);
      double largest = 0;
      for (const auto& token : tokens) {
        for (const double v : token.v) largest = std::max(largest, std::fabs(v));
      }
      allowed = (device_->adapter().attention_tolerance() + attention_error_) * largest;
    }
    const std::vector<float> query = Rotated({q, q + dim});
    const auto exact = reference::Attention({query.begin(), query.end()}, tokens, device_->scale());
    double error = 0;
    for (int c = 0; c < dim; ++c) {
      const double difference = std::fabs(out[c] - exact[c]);
      error = std::max(error, std::isnan(difference) ? HUGE_VAL : difference);
    }
    ASSERT_LE(error, allowed) << "layer " << layer << " row " << index << " head " << head
                              << " over " << tokens.size() << " tokens";
  }
}

float ModelSequence::NextKey(uint32_t position, size_t channel) {
  const float own = random_.Next(1.0f);
  const std::vector<float>& family = key_families_[position % key_families_.size()];
  return family.empty() ? own : Bf16ToFloat(FloatToBf16(family[channel] + own));
}

void ModelSequence::DrawAlikeKeys() {
  for (size_t i = 0; i < key_families_.size(); ++i) {
    Bf16Gaussian family(i);
    key_families_[i].resize(static_cast<size_t>(shape_.kv_heads) * shape_.head_dim);
    for (float& x : key_families_[i]) x = family.Next(1.0f);
  }
}

void ModelSequence::ForgetOpenGroup() {
  for (auto& newest : queries_) {
    for (reference::Vector& q : newest) q.assign(q.size(), 0.0);
  }
  for (Lane& of : lanes_) {
    of.residue = {};
    for (ModelToken& token : of.open) {
      for (auto* x : {&token.k, &token.v}) x->assign(x->size(), 0.0f);
      for (auto* x : {&token.stored_k, &token.stored_v}) x->assign(x->size(), 0.0);
      token.score = 0;
    }
  }
}

void ModelSequence::DrawTokens(int layer, uint32_t count, std::vector<float>* k,
                               std::vector<float>* v) {
  const size_t dim = static_cast<size_t>(shape_.head_dim);
  const size_t first = k->size(), width = static_cast<size_t>(shape_.kv_heads) * dim;
  for (size_t i = 0; i < count * width; ++i) {
    k->push_back(NextKey(next_position() + static_cast<uint32_t>(i / width), i % width));
  }
  for (size_t i = 0; i < count * width; ++i) v->push_back(random_.Next(value_deviation_));
  for (uint32_t i = 0; i < count; ++i) {
    for (int head = 0; head < shape_.kv_heads; ++head) {
      const auto at = static_cast<ptrdiff_t>(first + (size_t{i} * shape_.kv_heads + head) * dim);
      const auto end = at + static_cast<ptrdiff_t>(dim);
      ModelToken& token = lane(layer, head).open.emplace_back();
      token.position = next_position() + i;
      token.k = Rotated({k->begin() + at, k->begin() + end});
      token.v = {v->begin() + at, v->begin() + end};
      token.stored_k = {token.k.begin(), token.k.end()};
      token.stored_v = {token.v.begin(), token.v.end()};
    }
  }
}

std::vector<float> StepTogether(TestDevice* device, absl::Span<const SequenceStep> steps) {
  const size_t width = static_cast<size_t>(device->query_heads()) * device->shape().head_dim;
  DeviceAdapter& adapter = device->adapter();
  Backend& backend = device->backend();
  std::vector<SequenceView> views;
  std::vector<StepRows> rows;
  uint32_t row_count = 0;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    views.push_back(step->sequence->View());
  }
  for (size_t i = 0; i < steps.size(); ++i) {
    KV_CHECK(steps[i].sequence->open_count() + steps[i].count <= kGroupTokens);
    if (steps[i].count == 0) continue;
    rows.push_back({.sequence = static_cast<uint32_t>(steps.size() - 1 - i),
                    .row = row_count,
                    .count = steps[i].count});
    row_count += steps[i].count;
  }
  EXPECT_EQ(backend.BeginStep(views, rows), absl::OkStatus());
  std::vector<float> outputs;
  for (int layer = 0; layer < device->shape().layers; ++layer) {
    std::vector<float> q, k, v;
    for (const SequenceStep& step : steps) {
      Bf16Gaussian& random = step.sequence->random_;
      const float deviation = step.sequence->query_deviation_;
      for (size_t i = 0; i < step.count * width; ++i) q.push_back(random.Next(deviation));
      step.sequence->DrawTokens(layer, step.count, &k, &v);
    }
    void* buffers[] = {adapter.Upload(q), adapter.Upload(k), adapter.Upload(v),
                       adapter.Upload(std::vector<float>(q.size(), -7.0f))};
    const NewTokens added{.q = buffers[0], .k = buffers[1], .v = buffers[2]};
    EXPECT_EQ(backend.Append(layer, added), absl::OkStatus());
    const LayerActivations attended{.q = buffers[0], .out = buffers[3], .scale = device->scale()};
    EXPECT_EQ(backend.Attend(layer, attended), absl::OkStatus());
    EXPECT_EQ(backend.Synchronize(), absl::OkStatus());
    const std::vector<float> out = adapter.Download(buffers[3], q.size());
    size_t at = 0;
    for (const SequenceStep& step : steps) {
      ModelSequence& sequence = *step.sequence;
      for (uint32_t i = 0; i < step.count; ++i, at += width) {
        if (sequence.compare_attention_) sequence.CompareRow(layer, i, &q[at], &out[at]);
        if (step.count == 1) sequence.JudgeTokens(layer, &q[at]);
        sequence.KeepQueries(layer, &q[at]);
      }
    }
    outputs.insert(outputs.end(), out.begin(), out.end());
    for (void* buffer : buffers) adapter.Free(buffer);
  }
  for (const SequenceStep& step : steps) step.sequence->open_count_ += step.count;
  return outputs;
}

std::vector<SparsityPair> SparsityTogether(TestDevice* device,
                                           absl::Span<ModelSequence* const> sequences,
                                           absl::Span<const uint32_t> wanted, int layer) {
  std::vector<SequenceStep> steps;
  for (ModelSequence* sequence : sequences) steps.push_back({.sequence = sequence, .count = 1});
  KV_CHECK(!device->config().rotate_keys);  // the queries below are not what Append leaves
  StepTogether(device, steps);
  const size_t width = static_cast<size_t>(device->query_heads()) * device->shape().head_dim;
  std::vector<float> q;
  for (ModelSequence* sequence : sequences) {
    for (size_t i = 0; i < width; ++i) q.push_back(sequence->random_.Next(2.0f));
  }
  void* buffer = device->adapter().Upload(q);
  std::vector<float> measured(wanted.size(), -1.0f);
  EXPECT_EQ(device->backend().MeasureSparsity(
                layer, wanted, {.q = buffer, .scale = device->scale()}, absl::MakeSpan(measured)),
            absl::OkStatus());
  EXPECT_EQ(device->backend().Synchronize(), absl::OkStatus());
  device->adapter().Free(buffer);
  std::vector<SparsityPair> pairs;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const float* row = &q[wanted[i] * width];
    pairs.push_back({measured[i], sequences[wanted[i]]->ExactSparsity(layer, row)});
  }
  return pairs;
}

double ModelSequence::ExactSparsity(int layer, const float* q) {
  const int dim = shape_.head_dim;
  const int group = device_->query_heads() / shape_.kv_heads;
  std::vector<std::vector<reference::Vector>> queries;
  std::vector<std::vector<reference::Token>> heads;
  for (int head = 0; head < shape_.kv_heads; ++head) {
    auto& of_head = queries.emplace_back();
    for (int g = 0; g < group; ++g, q += dim) of_head.emplace_back(q, q + dim);
    heads.push_back(Visible(layer, head, open_count_));
  }
  return reference::Sparsity(queries, heads, device_->scale());
}

}  // namespace palimpsest
