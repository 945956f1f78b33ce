#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Judges every policy and format by what SmolLM2-135M predicts on the sixteen texts. Calibrates it
# first where that was not done. Resumable: run it again with the same RESULTS. Minutes on a GPU, a
# day on a few cores.
#   lab/likelihood/judge_smollm2.sh FOLDER RESULTS [PALIMPSEST]
set -eu
model=$1 results=$2
here=$(cd "$(dirname "$0")" && pwd)
palimpsest=${3:-$here/../../build/release/bin/palimpsest}
"$here/calibrate_smollm2.sh" "$model" "$palimpsest"
judge() {
  "$palimpsest" likelihood --model "$model" --texts "$here/texts" --batch 128 \
    --results "$results" "$@"
}
policies=window,random,h2o,rkv,longflow,thinkv,anticipate
echo "# What precision alone costs, then with rotated keys"
judge --policy full --formats fp8,nvfp4,fp8/nvfp4,bf16/nvfp4,nvfp4/ternary,bf16/ternary
judge --policy full --formats fp8,nvfp4,nvfp4/bf16,nvfp4/ternary --rotate-keys
echo "# What eviction alone costs"
judge --policy "$policies" --formats bf16 --bytes 10,20,40
echo "# Both"
judge --policy "$policies" --formats nvfp4 --bytes 5,10,20
