// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <vector>

#include "bench/fleet/page_writer.h"
#include "bench/gpu/random_bits.cuh"
#include "bench/gpu/random_data.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/layout.h"

namespace palimpsest::bench {
namespace {

using cuda::ToStatus;

struct PageImage {
  PageOffset offset = 0;
  uint32_t layout = 0;  // index into the call's layouts
  uint32_t live = 0;
  uint32_t positions[kSlotsPerPage] = {};
};

// A word of valid, ordinary elements from 32 random bits.
__device__ uint32_t DataWord(Format format, uint32_t bits) {
  switch (format) {
    case Format::kBf16:  // sign and mantissa at random, exponents 2^-3 to 2^0
      return (bits & 0x81ff81ff) | 0x3e003e00;
    case Format::kFp8:  // exponents away from the top, where NaN is
      return bits & 0xf7f7f7f7;
    case Format::kNvfp4:
      return bits;
    case Format::kTernary:  // a sign only where there is a magnitude
      return bits & (0x55555555u | (bits & 0x55555555u) << 1);
    case Format::kInt4:  // odd, so never -8
      return bits | 0x11111111u;
  }
  return 0;
}

__device__ void FillData(uint8_t* data, size_t bytes, Format format, uint64_t seed) {
  auto* words = reinterpret_cast<uint32_t*>(data);
  for (uint32_t i = threadIdx.x; i < bytes / 4; i += blockDim.x) {
    words[i] = DataWord(format, static_cast<uint32_t>(RandomBits(seed, i) >> 16));
  }
}

// E4M3 between 1 and 2: with the second-level constants, elements of a few units at most.
__device__ void FillScales(uint8_t* scales, size_t bytes, uint64_t seed) {
  for (uint32_t i = threadIdx.x; i < bytes; i += blockDim.x) {
    scales[i] = 0x38 | (RandomBits(seed, i) >> 16 & 7);
  }
}

// Grid: (lanes, pages).
__global__ void WritePagesKernel(cuda::DevicePool pool, const PageLayout* layouts,
                                 const PageImage* images) {
  const PageImage& image = images[blockIdx.y];
  const PageLayout& at = layouts[image.layout];
  uint8_t* page = pool.pages + image.offset;
  uint8_t* lane = page + blockIdx.x * at.lane_bytes;
  const uint64_t seed = 4 * (image.offset / kPageAlignment + (uint64_t{blockIdx.x} << 36));
  FillData(lane, at.k_scales_offset, at.format.k, seed);
  FillScales(lane + at.k_scales_offset, at.v_data_offset - at.k_scales_offset, seed + 1);
  FillData(lane + at.v_data_offset, at.v_scales_offset - at.v_data_offset, at.format.v, seed + 2);
  FillScales(lane + at.v_scales_offset, at.lane_bytes - at.v_scales_offset, seed + 3);
  auto* positions = reinterpret_cast<uint32_t*>(page + at.positions_offset) +
                    uint64_t{blockIdx.x} * kSlotsPerPage;
  if (threadIdx.x < kSlotsPerPage) positions[threadIdx.x] = image.positions[threadIdx.x];
  if (threadIdx.x == 0) {
    reinterpret_cast<uint16_t*>(page + at.masks_offset)[blockIdx.x] = image.live;
  }
}

struct Images {
  std::vector<PageLayout> layouts;
  std::vector<PageImage> pages;

  uint32_t LayoutIndex(const CacheShape& shape, PageFormat format) {
    for (uint32_t i = 0; i < layouts.size(); ++i) {
      if (layouts[i].format == format) return i;
    }
    layouts.push_back(MakePageLayout(shape, format));
    return static_cast<uint32_t>(layouts.size() - 1);
  }

  void Add(const CacheShape& shape, const SlotRecord& record) {
    for (const Thought thought : kThoughts) {
      const std::vector<PageOffset>& offsets = record.pages[Index(thought)];
      for (size_t p = 0; p < offsets.size(); ++p) {
        PageImage image{.offset = offsets[p],
                        .layout = LayoutIndex(shape, record.formats.of(thought))};
        for (int slot = 0; slot < kSlotsPerPage; ++slot) {
          const uint32_t position = record.positions[Index(thought)][p * kSlotsPerPage + slot];
          if (position == kDeadSlot) continue;
          image.positions[slot] = position;
          image.live |= 1u << slot;
        }
        pages.push_back(image);
      }
    }
  }
};

template <typename T>
absl::StatusOr<cuda::DeviceBytes> Upload(const std::vector<T>& values, cudaStream_t stream) {
  const size_t bytes = values.size() * sizeof(T);
  KV_ASSIGN_OR_RETURN(cuda::DeviceBytes memory,
                      cuda::AllocateDevice(bytes, stream, "the images of pages"));
  KV_RETURN_IF_ERROR(
      ToStatus(cudaMemcpyAsync(memory.get(), values.data(), bytes, cudaMemcpyHostToDevice, stream),
               "the images of pages"));
  return memory;
}

}  // namespace

absl::Status WritePages(const cuda::DevicePool& pool, const PretendBackend& recorded,
                        uint32_t open_groups, cudaStream_t stream) {
  if (pool.slot_scores || pool.residue) {
    return absl::UnimplementedError(
        "pretended pages have neither CacheShape::slot_scores nor CacheShape::residue");
  }
  const CacheShape shape = {
      .layers = pool.layers, .kv_heads = pool.kv_heads, .head_dim = pool.head_dim};
  Images images;
  for (uint32_t s = 0; s < open_groups; ++s) images.Add(shape, recorded.record(s));
  if (images.pages.empty()) return absl::OkStatus();
  KV_ASSIGN_OR_RETURN(const cuda::DeviceBytes layouts, Upload(images.layouts, stream));
  KV_ASSIGN_OR_RETURN(const cuda::DeviceBytes pages, Upload(images.pages, stream));
  constexpr size_t kPagesMax = 65535;  // of a grid's y
  for (size_t first = 0; first < images.pages.size(); first += kPagesMax) {
    const dim3 grid(static_cast<uint32_t>(shape.lanes()),
                    static_cast<uint32_t>(std::min(images.pages.size() - first, kPagesMax)));
    WritePagesKernel<<<grid, 128, 0, stream>>>(
        pool, reinterpret_cast<const PageLayout*>(layouts.get()),
        reinterpret_cast<const PageImage*>(pages.get()) + first);
    KV_RETURN_IF_ERROR(ToStatus(cudaGetLastError(), "writing pages"));
  }
  KV_RETURN_IF_ERROR(ToStatus(
      FillNormal(pool.open_groups, open_groups * OpenGroupBytes(shape) / 2, 1.0f, 5, stream),
      "writing open groups"));
  return ToStatus(cudaStreamSynchronize(stream), "writing pages");
}

}  // namespace palimpsest::bench
