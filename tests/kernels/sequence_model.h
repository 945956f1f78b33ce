// SPDX-License-Identifier: Apache-2.0
// One sequence on a backend, beside a plain model of it that keeps tokens in vectors. Every
// operation is done on both and compared: masks, positions, bytes, attention.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/conformance/device_adapter.h"
#include "tests/kernels/reference.h"

namespace palimpsest {

// A backend with a pool that pages are cut from, never given back.
class TestDevice {
 public:
  TestDevice(DeviceAdapter* adapter, const CacheShape& shape, int query_heads,
             uint64_t pool_bytes = uint64_t{8} << 20, uint32_t open_groups = 4);

  Backend& backend() { return *backend_; }
  DeviceAdapter& adapter() { return *adapter_; }
  const CacheShape& shape() const { return config_.shape; }
  const BackendConfig& config() const { return config_; }
  int query_heads() const { return query_heads_; }
  float scale() const;

  PageOffset NewPage(PageFormat format);
  // The bytes of all pages cut so far.
  std::vector<uint8_t> ReadPages();

 private:
  DeviceAdapter* const adapter_;
  BackendConfig config_;
  const int query_heads_;
  std::unique_ptr<Backend> backend_;
  PageOffset next_page_ = 0;
};

// Random numbers that bf16 holds exactly.
class Bf16Gaussian {
 public:
  explicit Bf16Gaussian(uint64_t seed) : engine_(seed) {}
  float Next(float deviation);
  uint64_t Below(uint64_t limit) { return engine_() % limit; }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_{0.0f, 1.0f};
};

class ModelSequence {
 public:
  ModelSequence(TestDevice* device, const ClassFormats& formats, uint32_t open_group,
                uint64_t seed);

  // Appends `count` random tokens in every layer and attends, comparing with the reference.
  // Returns the outputs of all layers. REQUIRES: open_count() + count <= 16.
  std::vector<float> Step(uint32_t count);
  // Without comparing (slow over long histories) Step only runs the backend.
  void compare_attention(bool on) { compare_attention_ = on; }
  // Seals the open group, with new pages as needed, and compares every byte.
  void Seal(Thought thought);
  // Anneals and compares the survivors with the model's own choice.
  void Anneal(const AnnealOrder& order);
  // Sparsity of a random query row of `layer` (appends one token): {measured, reference}.
  std::array<double, 2> Sparsity(int layer);

  // Live tokens of one lane and class; equal for all lanes, or a test failure.
  uint32_t LiveCount(Thought thought) const;
  uint32_t open_count() const { return open_count_; }
  uint32_t next_position() const { return open_position_ + open_count_; }
  SequenceView View() const;
  // Compares masks, positions and live bytes of every page with the model.
  void ComparePages();

 private:
  struct SlotBytes {
    std::vector<uint8_t> k, k_scales, v, v_scales;
    bool operator==(const SlotBytes&) const = default;
  };
  struct ModelToken {
    uint32_t position = 0;
    std::vector<float> k, v;  // as appended
    SlotBytes bytes;          // as sealed
  };
  using Slots = std::vector<std::optional<ModelToken>>;  // 16 a page, block-table order
  struct Lane {
    std::array<Slots, kThoughtCount> classes;
    std::vector<ModelToken> open;
  };

  Lane& lane(int layer, int head) { return lanes_[layer * shape_.kv_heads + head]; }
  SlotBytes ReadSlot(const std::vector<uint8_t>& pool, Thought thought, size_t slot, int layer,
                     int head) const;
  // Live tokens as the kernel sees them, then the first `open` of the open group.
  std::vector<reference::Token> Visible(int layer, int head, size_t open);
  std::vector<uint32_t> Survivors(const AnnealOrder& order, int layer);
  void CompareRow(int layer, uint32_t row, const std::vector<float>& q,
                  const std::vector<float>& out);

  TestDevice* const device_;
  const CacheShape shape_;
  const ClassFormats formats_;
  const uint32_t open_group_;
  Bf16Gaussian random_;
  std::array<std::vector<PageOffset>, kThoughtCount> pages_;
  std::vector<Lane> lanes_;
  bool compare_attention_ = true;
  uint32_t open_count_ = 0;
  uint32_t open_position_ = 0;
};

}  // namespace palimpsest
