// SPDX-License-Identifier: Apache-2.0
// What the kernels of anneal_joint.cu share. Tokens of a lane are numbered by position; token i is
// row i of its book.
#pragma once

#include "kernels/cuda/book_products.cuh"
#include "kernels/cuda/scored_lanes.cuh"
#include "kernels/cuda/tile_stream.cuh"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kNone = ~uint32_t{0};

struct JointLaunch {
  ScoredLanes lanes;
  QueryWindows queries;
  float scale = 0.0f;  // of logits, so that they have base 2

  // Scratch, an element or row for each lane.
  uint32_t rows = 0;               // a multiple of 64: bounds a lane's tokens
  uint32_t* counts = nullptr;      // tokens; 0 where none has to go
  uint32_t* slots = nullptr;       // [rows] the token's slot in its class
  uint8_t* keys = nullptr;         // books of `rows`, as stored; zeros up to a multiple of 64
  float* inverse_norms = nullptr;  // [rows] 1 / (|k| + 1e-8); 0 behind the tokens
  float* sums = nullptr;           // [rows / 64][D] of 64 normalised keys
  float* totals = nullptr;         // [rows] a key's cosines with all keys, itself too, added up
  float* logits = nullptr;         // [window][rows] the largest of the group's heads, base 2
  uint32_t* newest = nullptr;      // [rows] the newest token that is similar; kNone: there is none
  float* links = nullptr;          // [rows] the cosine with that one
  float* importance = nullptr;     // [rows]
  unsigned long long* forgiven = nullptr;  // [rows] cosines that do not count, in 2^-40
  float* scores = nullptr;                 // [rows] by slot
};

}  // namespace palimpsest::cuda::anneal
