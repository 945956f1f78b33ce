// SPDX-License-Identifier: Apache-2.0
// Everything is a search in the row ordered from the likeliest token down (ties by id): "the first
// token at which the running sum reaches a target". Top-k sums ones, top-p and the draw sum
// probabilities as integers. A search is two passes over the row, not a sort:
//   1. a histogram of the sums over 4,096 intervals of the distance to the best logit, 1/128 wide;
//      its running sum says in which interval the target is reached;
//   2. that interval's tokens, mostly a few hundred, are gathered and each adds up those before it.
// Where more than fit are in one interval (many equal logits, or very flat ones), the interval is
// cut finer by the bits of the rank until they fit: slower, and just as exact.
//
// A row is shared by the CTAs of a cluster, so that few rows use many multiprocessors. Bytes: a row
// is read once (greedy), 3 times (temperature) or 5 times (top-p), from L2 as a rule; the time is
// arithmetic, some twenty instructions a token and pass.
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "services/decode/model/cuda/cta_team.cuh"
#include "services/decode/model/cuda/launch.cuh"
#include "services/decode/model/cuda/sampling.h"

namespace palimpsest::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr uint32_t kCtasMax = 4;  // of a cluster
constexpr int kBins = 4096;
constexpr int kBinsPerThread = kBins / kThreads;
constexpr int kDigitBits = 12;  // log2(kBins)
constexpr uint32_t kCandidatesMax = 1536;
constexpr int kIdBits = 22;
constexpr int kRankBits = 32 + kIdBits;
constexpr float kBinsPerLogit = 128.0f;
constexpr int kWeightBits = 40;  // the likeliest token's weight is 2^40; 2^22 of them fit 64 bits

// By warps: the default keeps 32 values a thread in registers.
using Reduce = cub::BlockReduce<uint64_t, kThreads, cub::BLOCK_REDUCE_WARP_REDUCTIONS>;
using Scan = cub::BlockScan<uint64_t, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;

struct Shared {
  union {
    struct {
      uint32_t low[kBins];
      uint32_t high[kBins];
    } sums;
    struct {
      uint64_t rank[kCandidatesMax];
      uint64_t weight[kCandidatesMax];
    } candidates;  // the first CTA's are the cluster's
  };
  union {
    Reduce::TempStorage reduce;
    Scan::TempStorage scan;
  };
  uint64_t found;       // of this CTA, read by all of the cluster
  uint64_t reached[2];  // of this CTA alone
  uint32_t candidate_count;

  // 64-bit sums from 32-bit atomics, which the hardware has; 64-bit ones spin. The carries of all
  // additions to `low` come to the same number in any order.
  __device__ void Add(uint32_t bin, uint64_t weight) {
    const auto low = static_cast<uint32_t>(weight);
    const uint32_t before = atomicAdd(&sums.low[bin], low);
    const uint32_t high = static_cast<uint32_t>(weight >> 32) + (before + low < before ? 1 : 0);
    if (high != 0) atomicAdd(&sums.high[bin], high);
  }
};
static_assert(sizeof(Shared) <= 48 * 1024);

// A token's place in the order: ascending from the likeliest, ties by id. NaN comes first.
__device__ uint64_t RankOf(uint32_t id, float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);  // -0 and 0 are equal
  const uint32_t descending = isnan(logit) ? 0 : (bits >> 31) != 0 ? bits : ~bits & 0x7fffffff;
  return uint64_t{descending} << kIdBits | id;
}
__device__ uint32_t IdOf(uint64_t rank) { return rank & ((1u << kIdBits) - 1); }

// The last token that filters have left. Not later than it: in the order of ranks, at less cost.
struct Last {
  float logit;
  uint32_t id;
  __device__ bool Keeps(uint32_t id_of, float logit_of) const {
    return logit_of > logit || (logit_of == logit && id_of <= id);
  }
};

struct Row {
  const float* logits;
  uint32_t vocab;
  CtaTeam team;
  float best;     // the largest logit
  float inverse;  // 1 / (temperature * ln 2)

  // Probability over that of the best, times 2^40.
  __device__ uint64_t WeightOf(float logit) const {
    const float halvings = (best - logit) * inverse;
    if (!(halvings < kWeightBits)) return 0;
    float share;  // in (2^-40, 1]: a normal number
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(share) : "f"(-halvings));
    const uint32_t bits = __float_as_uint(share);
    const uint64_t mantissa = (bits & 0x7fffff) | 0x800000;
    return mantissa << (kWeightBits - 23) >> (127 - (bits >> 23));
  }
  // Monotone, as every step of it is.
  __device__ uint32_t IntervalOf(float logit) const {
    constexpr float kToInteger = 0x1p23f;  // makes the low bits of the sum the rounded number
    const float interval = fminf((best - logit) * kBinsPerLogit, kBins - 1.0f);
    return __float_as_uint(interval + kToInteger) & (kBins - 1);
  }

  // Calls visit(id, logit) for every token of this CTA's share, ascending, two loads ahead.
  template <typename Visit>
  __device__ void ForEach(Visit visit) const {
    constexpr uint32_t kAhead = 2;
    const uint32_t step = 4 * kThreads * team.size();
    uint32_t at = 4 * (threadIdx.x + kThreads * team.rank());
    for (; at < vocab; at += step * kAhead) {
      float4 four[kAhead];
#pragma unroll
      for (uint32_t i = 0; i < kAhead; ++i) {
        const uint32_t id = at + i * step;
        if (id < vocab) four[i] = __ldg(reinterpret_cast<const float4*>(logits + id));
      }
#pragma unroll
      for (uint32_t i = 0; i < kAhead; ++i) {
        const uint32_t id = at + i * step;
        const float logit[4] = {four[i].x, four[i].y, four[i].z, four[i].w};
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
          if (id + j < vocab) visit(id + j, logit[j]);
        }
      }
    }
  }
};

// The rank of the likeliest token; of a NaN if there is one.
__device__ uint64_t FirstRank(const Row& row, Shared& shared) {
  float best = -INFINITY;
  uint32_t id = 0;
  bool has_nan = false;
  row.ForEach([&](uint32_t id_of, float logit) {
    has_nan |= isnan(logit);
    if (logit > best) {
      best = logit;
      id = id_of;
    }
  });
  const auto lesser = [](uint64_t a, uint64_t b) { return min(a, b); };
  const uint64_t first = Reduce(shared.reduce).Reduce(has_nan ? 0 : RankOf(id, best), lesser);
  if (threadIdx.x == 0) shared.found = first;
  row.team.Sync();
  uint64_t least = ~uint64_t{0};
  for (uint32_t cta = 0; cta < row.team.size(); ++cta) {
    least = min(least, *row.team.Of(cta, &shared.found));
  }
  row.team.Sync();
  return least;
}

// Which tokens a search still looks at: those of an interval whose ranks begin with `prefix`.
struct Part {
  uint32_t interval = 0;
  int shift = kRankBits;  // of the rank: the bits from here up are known
  uint64_t prefix = 0;

  __device__ bool Has(const Row& row, uint32_t id, float logit) const {
    return row.IntervalOf(logit) == interval && RankOf(id, logit) >> shift == prefix;
  }
};

// Sums weigh(id, logit) of the row's tokens by bin_of(id, logit); those with kNoBin are left out.
constexpr uint32_t kNoBin = ~0u;
template <typename Weigh, typename BinOf>
__device__ void SumByBin(const Row& row, Weigh weigh, BinOf bin_of, Shared& shared) {
  for (int i = threadIdx.x; i < kBins; i += kThreads) shared.sums.low[i] = shared.sums.high[i] = 0;
  __syncthreads();
  row.ForEach([&](uint32_t id, float logit) {
    const uint32_t bin = bin_of(id, logit);
    if (bin == kNoBin) return;
    const uint64_t weight = weigh(id, logit);
    if (weight != 0) shared.Add(bin, weight);
  });
  row.team.Sync();
}

// Finds the bin in which the running sum of the cluster's sums reaches the target, which
// `target_of` gives for the sum of all (at most that, and not 0); lowers *target by the sums before
// that bin.
template <typename TargetOf>
__device__ uint32_t ReachingBin(const Row& row, TargetOf target_of, uint64_t* target,
                                Shared& shared) {
  const uint32_t first = threadIdx.x * kBinsPerThread;
  uint64_t own[kBinsPerThread] = {};
  for (uint32_t cta = 0; cta < row.team.size(); ++cta) {
    const Shared& other = *row.team.Of(cta, &shared);
    const uint4 low = *reinterpret_cast<const uint4*>(&other.sums.low[first]);
    const uint4 high = *reinterpret_cast<const uint4*>(&other.sums.high[first]);
    own[0] += uint64_t{high.x} << 32 | low.x;
    own[1] += uint64_t{high.y} << 32 | low.y;
    own[2] += uint64_t{high.z} << 32 | low.z;
    own[3] += uint64_t{high.w} << 32 | low.w;
  }
  static_assert(kBinsPerThread == 4);
  const uint64_t sum = own[0] + own[1] + own[2] + own[3];
  uint64_t before, all;
  Scan(shared.scan).ExclusiveSum(sum, before, all);
  const uint64_t wanted = target_of(all);
  if (before < wanted && wanted <= before + sum) {  // true for one thread
    uint32_t bin = first;
#pragma unroll
    for (int i = 0; i < kBinsPerThread - 1; ++i) {
      if (bin == first + i && before + own[i] < wanted) {
        before += own[i];
        ++bin;
      }
    }
    shared.reached[0] = bin;
    shared.reached[1] = wanted - before;
  }
  row.team.Sync();  // nobody reads the sums any more
  *target = shared.reached[1];
  return static_cast<uint32_t>(shared.reached[0]);
}

// Gathers the tokens of `part` that weigh anything; false if there are more than fit.
template <typename Weigh>
__device__ bool Gather(const Row& row, Weigh weigh, const Part& part, Shared& shared) {
  Shared& gathered = *row.team.Of(0, &shared);
  if (threadIdx.x == 0) shared.candidate_count = 0;
  row.team.Sync();
  row.ForEach([&](uint32_t id, float logit) {
    if (!part.Has(row, id, logit)) return;
    const uint64_t weight = weigh(id, logit);
    if (weight == 0) return;
    const uint32_t at = atomicAdd(&gathered.candidate_count, 1u);
    if (at >= kCandidatesMax) return;
    gathered.candidates.rank[at] = RankOf(id, logit);
    gathered.candidates.weight[at] = weight;
  });
  row.team.Sync();
  const uint32_t count = gathered.candidate_count;
  row.team.Sync();
  return count <= kCandidatesMax;
}

// Of the gathered tokens, the one at which the running sum reaches `target`.
__device__ uint64_t ReachingCandidate(const Row& row, uint64_t target, Shared& shared) {
  if (row.team.rank() == 0) {
    const uint32_t count = shared.candidate_count;
    for (uint32_t i = threadIdx.x; i < count; i += kThreads) {
      const uint64_t rank = shared.candidates.rank[i];
      uint64_t before = 0;
      for (uint32_t j = 0; j < count; ++j) {
        if (shared.candidates.rank[j] < rank) before += shared.candidates.weight[j];
      }
      if (before < target && target <= before + shared.candidates.weight[i]) shared.found = rank;
    }
  }
  row.team.Sync();
  const uint64_t found = *row.team.Of(0, &shared.found);
  row.team.Sync();
  return found;
}

// The rank of the first token, in order, at which the sum of weigh(id, logit) reaches
// target_of(sum over all tokens). Some token must weigh something.
template <typename Weigh, typename TargetOf>
__device__ uint64_t FirstReaching(const Row& row, Weigh weigh, TargetOf target_of, Shared& shared) {
  uint64_t target;
  Part part;
  SumByBin(
      row, weigh, [&](uint32_t, float logit) { return row.IntervalOf(logit); }, shared);
  part.interval = ReachingBin(row, target_of, &target, shared);
  while (!Gather(row, weigh, part, shared)) {
    const int shift = max(part.shift - kDigitBits, 0);
    const uint64_t digit_mask = (uint64_t{1} << (part.shift - shift)) - 1;
    SumByBin(
        row, weigh,
        [&](uint32_t id, float logit) {
          if (!part.Has(row, id, logit)) return kNoBin;
          return static_cast<uint32_t>(RankOf(id, logit) >> shift & digit_mask);
        },
        shared);
    const uint64_t left = target;
    const uint64_t digit = ReachingBin(
        row, [=](uint64_t) { return left; }, &target, shared);
    part.prefix = part.prefix << (part.shift - shift) | digit;
    part.shift = shift;
  }
  return ReachingCandidate(row, target, shared);
}

__device__ uint64_t Share(double share, uint64_t all) {
  return min(max(static_cast<uint64_t>(ceil(share * static_cast<double>(all))), uint64_t{1}), all);
}

// The filters, then the draw.
__device__ uint64_t Draw(const Row& row, const SampleRow& params, Shared& shared) {
  Last last = {.logit = -INFINITY, .id = row.vocab};
  const auto cut_behind = [&](uint64_t rank) {
    last = {.logit = row.logits[IdOf(rank)], .id = IdOf(rank)};
  };
  if (params.top_k > 0 && params.top_k < row.vocab) {
    const uint64_t k = params.top_k;
    cut_behind(FirstReaching(
        row, [](uint32_t, float) { return uint64_t{1}; }, [=](uint64_t) { return k; }, shared));
  }
  if (params.top_p < 1.0f) {
    const auto weigh = [&](uint32_t id, float logit) {
      return last.Keeps(id, logit) ? row.WeightOf(logit) : 0;
    };
    const double top_p = params.top_p;
    cut_behind(FirstReaching(
        row, weigh, [=](uint64_t all) { return Share(top_p, all); }, shared));
  }
  // Probabilities at least min_p of the best's, told by their logits: exactly, as they are given.
  const double least = double{row.best} + params.temperature * log(double{params.min_p});
  const float least_logit = __double2float_ru(least);
  const auto weigh = [&](uint32_t id, float logit) {
    return last.Keeps(id, logit) && logit >= least_logit ? row.WeightOf(logit) : 0;
  };
  const double uniform = params.uniform;
  const auto target_of = [=](uint64_t all) {
    return min(static_cast<uint64_t>(uniform * static_cast<double>(all)) + 1, all);
  };
  return FirstReaching(row, weigh, target_of, shared);
}

__device__ void Put(const TokenSinks& tokens, uint32_t index, int32_t token) {
  tokens.device[index] = token;
  tokens.host[index] = token;
}

__global__ void __launch_bounds__(kThreads)
    SampleTokensKernel(LogitRows in, const SampleRow* params, int32_t invalid_token,
                       TokenSinks tokens) {
  __shared__ Shared shared;
  WaitForInputs();
  Row row = {.logits = nullptr, .vocab = in.vocab, .team = {}, .best = 0.0f, .inverse = 0.0f};
  const uint32_t index = blockIdx.x / row.team.size();
  const bool writes = row.team.rank() == 0 && threadIdx.x == 0;
  row.logits = in.logits + size_t{index} * in.stride;
  uint64_t rank = FirstRank(row, shared);
  row.best = row.logits[IdOf(rank)];
  if (rank >> kIdBits == 0 || !isfinite(row.best)) {  // all of the cluster
    if (writes) Put(tokens, index, invalid_token);
    return;
  }
  const SampleRow own = params[index];
  if (own.temperature > 0.0f) {
    row.inverse = 1.0f / (own.temperature * 0.693147180559945f);
    rank = Draw(row, own, shared);
  }
  if (writes) Put(tokens, index, static_cast<int32_t>(IdOf(rank)));
}

// As many CTAs a row as rows leave multiprocessors for.
uint32_t CtasFor(uint32_t rows) {
  constexpr uint32_t kMultiprocessors = 132;  // of an H100; others lose or gain a little
  uint32_t ctas = kCtasMax;
  while (ctas > 1 && rows * ctas > kMultiprocessors) ctas /= 2;
  return ctas;
}

}  // namespace

cudaError_t SampleTokens(const LogitRows& logits, const SampleRow* rows, uint32_t row_count,
                         int32_t invalid_token, const TokenSinks& tokens, cudaStream_t stream) {
  const uint32_t ctas = CtasFor(row_count);
  return Launch(SampleTokensKernel,
                {.ctas = row_count * ctas, .threads = kThreads, .cluster = ctas}, stream, logits,
                rows, invalid_token, tokens);
}

}  // namespace palimpsest::cuda
