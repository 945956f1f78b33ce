// SPDX-License-Identifier: Apache-2.0
// cuBLASLt, loaded when the first model on a GPU is made instead of with the program: a worker on
// the CPU needs none, and the library's 94 kB of thread-local storage, once part of the program,
// would be taken from every thread's stack (threads with small ones then cannot start at all).
//
// cublas_lt.cc has the functions of cublasLt.h that are used here, each of which hands over to the
// library's own.
#pragma once

#include "absl/status/status.h"

namespace palimpsest::cuda {

// Unavailable, saying where was looked, when the library is not to be had. Any thread.
absl::Status LoadCublasLt();

}  // namespace palimpsest::cuda
