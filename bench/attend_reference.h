// SPDX-License-Identifier: Apache-2.0
// Attention over pages by the plainest kernel there can be, for attend_bench to be held to: it
// reads a page element by element as kernels/layout.h describes it, shares no code with
// kernels/cuda and computes in fp32. And the edit that makes holes at random, which no public call
// can order.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/base/thought.h"
#include "kernels/cuda/step_tables.h"
#include "kernels/layout.h"

namespace palimpsest::bench {

// A page's offset, with Index(Thought) of its class in the low four bits.
using PageRef = uint64_t;

struct PagesOnDevice {
  cuda::DevicePool pool;
  PageLayout layouts[kThoughtCount] = {};  // by class
  const PageRef* pages = nullptr;          // [batch][pages_each]
  uint32_t batch = 0;
  uint32_t pages_each = 0;
  // Of uneven sequences, else null. The blocks of lane l, of each sequence, are blocks[i] with
  // first_block[l] <= i < first_block[l + 1]: page * lanes + place.
  const uint32_t* first_block = nullptr;
  const uint32_t* blocks = nullptr;
};

// Of even and uneven sequences. q: [batch, query_heads, head_dim] bf16; out: the same shape, fp32.
// Sequence s has the open group s with open_count tokens. *v_max becomes the largest |V| met.
cudaError_t ReferenceAttend(const PagesOnDevice& on, int layer, uint32_t open_count, const void* q,
                            float scale, float* out, float* v_max, cudaStream_t stream);

// A slot of a KV head and what it gets in a step.
struct JudgedSlot {
  float mass = 0;   // probability, summed over the query heads of the KV head
  float score = 0;  // as it lies in the page
  uint32_t position = 0;
  uint32_t live = 0;
};

// Of the same step, with pages that carry scores. log_sums: [batch][query_heads], for the call's
// own use; judged: [batch][kv_heads][pages_each][16].
cudaError_t JudgeSlots(const PagesOnDevice& on, int layer, uint32_t open_count, const void* q,
                       float scale, float* log_sums, JudgedSlot* judged, cudaStream_t stream);

// Leaves live[p] random slots of page p of every sequence live, in each lane others.
cudaError_t PunchHoles(const PagesOnDevice& on, const uint8_t* live, uint64_t seed,
                       cudaStream_t stream);

}  // namespace palimpsest::bench
