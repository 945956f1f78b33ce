#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The tables of policies and formats, judged by what SmolLM2-135M predicts on the sixteen texts.
#
#   lab/likelihood/judge_smollm2.sh run FOLDER RESULTS.jsonl
#   lab/likelihood/judge_smollm2.sh report RESULTS.jsonl
#
# `run` wants the model's folder (lab/agreement/make_smollm2.sh) and calibrates it first where that
# was not done. It may be stopped and run again: it goes on where it was. On one H100 it takes three
# minutes, on a few cores days. LANES: parts that run at once (3; each leaves a GPU idle between its
# steps). `report` writes bench/results/likelihood.jsonl, the pictures docs/pictures/likelihood-*.svg
# and the tables of the documents. MACHINE: what it ran on.
#
# PALIMPSEST_BIN: folder of palimpsest; by default build/release/bin.
set -euo pipefail
cd "$(dirname "$0")/../.."

: "${PALIMPSEST_BIN:=$PWD/build/release/bin}"
export palimpsest=$PALIMPSEST_BIN/palimpsest
export PALIMPSEST_DATA=$PWD

usage() {
  sed -n '3,15p' "$0" >&2
  exit 2
}

# What matters most first. Policies of one line want the same of a cache: they share the chains of
# the full one. `same`: all in one precision; else each has the formats of its paper.
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

run() {
  export model=$1 results=$2
  lab/likelihood/calibrate_smollm2.sh "$model" "$palimpsest"
  grid | xargs -P "${LANES:-3}" -I {} sh -c '
    start=$(date +%s)
    "$palimpsest" likelihood --model "$model" --texts lab/likelihood/texts --every 4 --batch 256 \
      --results "$results" {} && end=done || end=failed
    echo "$end in $(($(date +%s) - start)) s: {}"'
}

# One picture of each one's own formats, one of the same for all.
report() {
  local results=$1 folder
  folder=$(mktemp -d)
  trap "rm -rf '$folder'" EXIT
  of() {
    "$palimpsest" likelihood --no-run --model SmolLM2-135M --machine "${MACHINE:-}" \
      --results "$1" --format json "${@:2}"
  }
  of "$results" > bench/results/likelihood.jsonl
  local rotated='keys rotated"' ours='"policy":"anticipate".*'
  grep "$rotated" "$results" > "$folder/same"
  grep -e "$ours$rotated" "$results" > "$folder/own"
  grep -v -e "$rotated" "$results" | grep -v -e '"policy":"\(anticipate\|thinkv\).*"bf16"' \
    >> "$folder/own"
  mkdir -p docs/pictures
  of "$folder/own" --picture docs/pictures/likelihood-own.svg > /dev/null
  of "$folder/same" --picture docs/pictures/likelihood-same.svg > /dev/null
  python3 bench/make_table.py
}

case "${1:-}" in
  run) [ $# -eq 3 ] || usage; run "$2" "$3" ;;
  report) [ $# -eq 2 ] || usage; report "$2" ;;
  *) usage ;;
esac
