// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/codebook.h"

#include <cstring>
#include <vector>

#include "common/base/status_macros.h"
#include "kernels/cuda/operand_book.h"

namespace palimpsest::cuda {
namespace {

absl::StatusOr<DeviceBytes> Upload(const void* data, uint64_t bytes, cudaStream_t stream,
                                   const char* what) {
  KV_ASSIGN_OR_RETURN(DeviceBytes memory, AllocateDevice(bytes, stream, what));
  KV_RETURN_IF_ERROR(
      ToStatus(cudaMemcpyAsync(memory.get(), data, bytes, cudaMemcpyHostToDevice, stream), what));
  KV_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(stream), what));
  return memory;
}

}  // namespace

absl::StatusOr<Codebook> Codebook::Make(const DeviceContext& device, const QueryCodebook& book) {
  const auto dim = static_cast<uint32_t>(book.head_dim);
  const auto group = static_cast<uint32_t>(book.query_heads / device.pool.kv_heads);
  const uint32_t queries = group * book.queries;  // of a KV head, one after the other in `book`
  const uint32_t room = (queries + kTileRows - 1) / kTileRows * kTileRows;
  const uint64_t lanes = uint64_t(device.pool.layers) * device.pool.kv_heads;
  std::vector<uint8_t> books(lanes * BookBytes(room, dim));
  for (uint64_t row = 0; row < lanes * queries; ++row) {
    uint8_t* to = &books[row / queries * BookBytes(room, dim)];
    const uint16_t* from = &book.data[row * dim];
    for (uint32_t c = 0; c < dim; c += kPieceChannels) {
      std::memcpy(to + PieceOffset(row % queries, c, dim), from + c, kPieceChannels * 2);
    }
  }
  Codebook codebook;
  KV_ASSIGN_OR_RETURN(codebook.books_,
                      Upload(books.data(), books.size(), device.stream, "the query codebook"));
  KV_ASSIGN_OR_RETURN(
      codebook.inverse_frequencies_,
      Upload(book.inverse_frequencies.data(), book.inverse_frequencies.size() * sizeof(float),
             device.stream, "the query codebook's frequencies"));
  codebook.on_device_ = {
      .books = codebook.books_.get(),
      .inverse_frequencies = reinterpret_cast<const float*>(codebook.inverse_frequencies_.get()),
      .attention_factor = book.attention_factor,
      .queries = queries,
      .queries_room = room};
  return codebook;
}

}  // namespace palimpsest::cuda
