// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/cuda/cublas_lt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace palimpsest::cuda {
namespace {

// Where dlopen looks by itself first (LD_LIBRARY_PATH, the system's), then where CUDA is usually
// installed.
constexpr const char* kPlaces[] = {"libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.13"};

struct Library {
  void* handle = nullptr;
  std::string error;

  Library() {
    for (const char* place : kPlaces) {
      handle = dlopen(place, RTLD_NOW | RTLD_LOCAL);
      if (handle != nullptr) return;
      absl::StrAppend(&error, error.empty() ? "" : "; ", dlerror());
    }
  }
};

// Stays loaded until the end of the process.
const Library& TheLibrary() {
  static const Library library;
  return library;
}

// Calls the library's function `name`, of the type of the one declared in cublasLt.h.
template <auto kDeclared, typename... Args>
cublasStatus_t Call(const char* name, Args... args) {
  void* const handle = TheLibrary().handle;
  static const auto function =
      reinterpret_cast<decltype(kDeclared)>(handle == nullptr ? nullptr : dlsym(handle, name));
  return function == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : function(args...);
}

}  // namespace

absl::Status LoadCublasLt() {
  const Library& library = TheLibrary();
  if (library.handle != nullptr) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("cuBLASLt cannot be loaded; put the folder of CUDA 13's libraries into "
                   "LD_LIBRARY_PATH: ",
                   library.error));
}

}  // namespace palimpsest::cuda

using palimpsest::cuda::Call;

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  return Call<&cublasLtCreate>(__func__, handle);
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  return Call<&cublasLtDestroy>(__func__, handle);
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
  void* const handle = palimpsest::cuda::TheLibrary().handle;
  auto* const function =
      handle == nullptr
          ? nullptr
          : reinterpret_cast<decltype(&cublasLtGetStatusString)>(dlsym(handle, __func__));
  return function == nullptr ? "cuBLASLt is not loaded" : function(status);
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  return Call<&cublasLtMatmul>(__func__, handle, desc, alpha, a, a_layout, b, b_layout, beta, c,
                               c_layout, d, d_layout, algorithm, workspace, workspace_bytes,
                               stream);
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
  return Call<&cublasLtMatmulAlgoGetHeuristic>(__func__, handle, desc, a, b, c, d, preference,
                                               wanted, results, found);
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  return Call<&cublasLtMatmulDescCreate>(__func__, desc, compute, scale);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  return Call<&cublasLtMatmulDescDestroy>(__func__, desc);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t name,
                                              const void* value, size_t bytes) {
  return Call<&cublasLtMatmulDescSetAttribute>(__func__, desc, name, value, bytes);
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return Call<&cublasLtMatmulPreferenceCreate>(__func__, preference);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return Call<&cublasLtMatmulPreferenceDestroy>(__func__, preference);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t name,
                                                    const void* value, size_t bytes) {
  return Call<&cublasLtMatmulPreferenceSetAttribute>(__func__, preference, name, value, bytes);
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t stride) {
  return Call<&cublasLtMatrixLayoutCreate>(__func__, layout, type, rows, columns, stride);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return Call<&cublasLtMatrixLayoutDestroy>(__func__, layout);
}

}  // extern "C"
