// SPDX-License-Identifier: Apache-2.0
// What the kernels of anneal_anticipated.cu share.
#pragma once

#include "kernels/cuda/scored_lanes.cuh"
#include "kernels/cuda/tile_stream.cuh"

namespace palimpsest::cuda::anneal {

struct AnticipatedLaunch {
  ScoredLanes lanes;
  CodebookOnDevice codebook;
  bool rotate_keys = false;
  float scale = 0.0f;  // what keys are multiplied with, so that logits have base 2

  // Scratch, an element or row for each lane. Live tokens of the class are numbered in the order of
  // their slots; token i is row i of the lane's books, which have zeros up to a multiple of 64.
  uint32_t rows = 0;                // a multiple of 64: bounds the tokens
  uint32_t* counts = nullptr;       // tokens; 0 also where none has to go, of uneven sequences
  uint32_t* slots = nullptr;        // [rows] the token's slot in the class
  uint8_t* keys = nullptr;          // books of `rows`, turned back to position 0
  uint8_t* values = nullptr;        // books of `rows`
  float* value_squares = nullptr;   // [rows] |v|^2
  uint8_t* outputs = nullptr;       // books of queries_room: what each query of the codebook gets
  float* minus_log_sums = nullptr;  // [queries_room] -log2 of its softmax's denominator
  float* minus_half_squares = nullptr;  // [queries_room] -|o|^2 / 2
  float* scores = nullptr;              // [rows] by slot
};

}  // namespace palimpsest::cuda::anneal
