#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Our C++ and CUDA sources, each followed by a zero byte.
cd "$(dirname "$0")/../.." || exit 1
exec find common kernels services tests bench -type f \
  \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) -print0
