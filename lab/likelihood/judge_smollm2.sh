#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Judges every policy and format by what SmolLM2-135M predicts on the sixteen texts. Calibrates it
# first where that was not done. Resumable: run it again with the same RESULTS. Minutes on a GPU, a
# day on a few cores.
#   lab/likelihood/judge_smollm2.sh FOLDER RESULTS [PALIMPSEST]
# LANES: runs at once (1). On a GPU three are faster than one: each leaves it idle between its steps.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export model=$1 results=$2 texts=$here/texts
export palimpsest=${3:-$here/../../build/release/bin/palimpsest}
"$here/calibrate_smollm2.sh" "$model" "$palimpsest"

# What matters most first. A line has policies that want the same of a cache: they share the chains
# of the full one. `same`: all in one precision; else each has the formats of its paper.
same='--formats nvfp4 --rotate-keys'
grid() {
  cat <<END
--policy full --formats fp8,nvfp4,fp8/nvfp4,bf16/nvfp4,nvfp4/ternary,bf16/ternary
--policy full --formats fp8,nvfp4,fp8/nvfp4,nvfp4/bf16,nvfp4/ternary --rotate-keys
--policy anticipate --bytes 2.5,5,10,20,40 $same
--policy window,random,rkv,thinkv --bytes 5,10,20 $same
--policy h2o,longflow --bytes 5,10,20 $same
--policy window,random,rkv,thinkv --bytes 5,10,20
--policy h2o,longflow --bytes 5,10,20
--policy window,random,rkv,thinkv --bytes 2.5,40 $same
--policy h2o,longflow --bytes 2.5,40 $same
--policy window,random,rkv,thinkv --bytes 2.5,40
--policy h2o,longflow --bytes 2.5,40
--policy anticipate --bytes 2.5,5,10,20,40
--policy anticipate --bytes 5,10,20,40 --formats bf16
--policy thinkv --bytes 5,10,20,40 --formats bf16
END
}
# A budget in bytes that nobody of a line can hold is no failure.
grid | xargs -P "${LANES:-1}" -I {} sh -c '
  start=$(date +%s)
  "$palimpsest" likelihood --model "$model" --texts "$texts" --every 4 --batch 256 \
    --results "$results" {} && end=done || end=failed
  echo "$end in $(($(date +%s) - start)) s: {}"'
