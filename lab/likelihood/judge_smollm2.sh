#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The tables of policies and formats, judged by what SmolLM2-135M predicts on the sixteen texts, read
# to three lengths.
#
#   lab/likelihood/judge_smollm2.sh run FOLDER RESULTS.jsonl [LENGTH...]
#   lab/likelihood/judge_smollm2.sh report RESULTS.jsonl
#
# `run` wants the model's folder (lab/agreement/make_smollm2.sh) and calibrates it first where that
# was not done. It may be stopped and run again: it goes on where it was. LENGTHs are tokens, by
# default 4096 8192 2048: minutes on a GPU, days on a few cores. LANES: parts that run at once (3; each
# leaves a GPU idle between its steps). `report` writes bench/results/likelihood-*.jsonl, the pictures
# docs/pictures/likelihood-*.svg and the tables of the documents. MACHINE: what it ran on.
#
# FOUR_BITS: the four-bit format of anticipate, and of all where they are compared in one (int4).
# PALIMPSEST_BIN: folder of palimpsest; by default build/release/bin.
set -euo pipefail
cd "$(dirname "$0")/../.."

: "${PALIMPSEST_BIN:=$PWD/build/release/bin}"
: "${FOUR_BITS:=int4}"
export palimpsest=$PALIMPSEST_BIN/palimpsest
export PALIMPSEST_DATA=$PWD

usage() {
  sed -n '3,16p' "$0" >&2
  exit 2
}

# What matters most first. A line is a process, whose steps take most of their time however few
# chains there are: so it has all points that want the same of a cache and of its keys. `default`:
# the formats of a policy's paper.
all_aims() {
  cat <<END
--policy anticipate --bytes 2.5,5,10,20,40 --formats $FOUR_BITS,nvfp4,fp8/$FOUR_BITS --rotate-keys
--policy window,random,rkv,thinkv --bytes 2.5,5,10,20,40 --formats $FOUR_BITS --rotate-keys
--policy h2o,longflow --bytes 2.5,5,10,20,40 --formats $FOUR_BITS --rotate-keys
--policy window,random,rkv,thinkv --bytes 5,10,20,40 --formats default,bf16
--policy h2o,longflow --bytes 5,10,20,40
--policy full --formats $rotated_formats --rotate-keys
--policy full --formats $plain_formats
--policy anticipate --bytes 5,10,20,40 --formats $FOUR_BITS,bf16
END
}
rotated_formats=fp8,nvfp4,$FOUR_BITS,fp8/nvfp4,fp8/$FOUR_BITS,nvfp4/$FOUR_BITS,$FOUR_BITS/nvfp4
rotated_formats+=,nvfp4/bf16,$FOUR_BITS/bf16,nvfp4/ternary
plain_formats=fp8,nvfp4,$FOUR_BITS,fp8/nvfp4,bf16/nvfp4,bf16/$FOUR_BITS,bf16/ternary

# For the lengths beside 4,096.
some_aims() {
  cat <<END
--policy anticipate --bytes 5,10,20 --formats $FOUR_BITS --rotate-keys
--policy window,rkv,thinkv --bytes 5,10,20 --formats $FOUR_BITS --rotate-keys
--policy h2o,longflow --bytes 5,10,20 --formats $FOUR_BITS --rotate-keys
--policy window,rkv,thinkv --bytes 5,10,20
--policy h2o,longflow --bytes 5,10,20
END
}

# Long texts have positions enough to compare every eighth.
grid() {
  local length
  for length in "$@"; do
    if [ "$length" = 4096 ]; then all_aims; else some_aims; fi |
      sed "s/^/--text-tokens $length --every $((length > 4096 ? 8 : 4)) /"
  done
}

run() {
  export model=$1 results=$2
  shift 2
  [ $# -gt 0 ] || set -- 4096 8192 2048
  lab/likelihood/calibrate_smollm2.sh "$model" "$palimpsest"
  grid "$@" | xargs -P "${LANES:-3}" -I {} sh -c '
    start=$(date +%s)
    "$palimpsest" likelihood --model "$model" --texts lab/likelihood/texts --batch 512 \
      --results "$results" {} && end=done || end=failed
    echo "$end in $(($(date +%s) - start)) s: {}"
    [ "$end" = done ]'
}

# Of 4,096 tokens one picture of each one's own formats, one of the same for all.
report() {
  local results=$1 folder length
  folder=$(mktemp -d)
  trap "rm -rf '$folder'" EXIT
  of() {
    "$palimpsest" likelihood --no-run --model SmolLM2-135M --machine "${MACHINE:-}" \
      --results "$1" --format json "${@:2}"
  }
  for length in 2048 4096 8192; do
    if grep "\"tokens\":$length," "$results" > "$folder/$length"; then
      of "$folder/$length" > "$folder/report"
      mv "$folder/report" "bench/results/likelihood-$length.jsonl"
    fi
  done
  local rotated='keys rotated"' ours='"policy":"anticipate"'
  grep "\"formats\":\"$FOUR_BITS, $rotated" "$folder/4096" > "$folder/same"
  grep "$ours" "$folder/same" > "$folder/own"
  grep -v -e "$rotated" -e "$ours" -e '"policy":"thinkv".*"bf16"' "$folder/4096" >> "$folder/own"
  mkdir -p docs/pictures
  of "$folder/own" --picture docs/pictures/likelihood-own.svg > /dev/null
  of "$folder/same" --picture docs/pictures/likelihood-same.svg > /dev/null
  python3 bench/make_table.py
}

case "${1:-}" in
  run) [ $# -ge 3 ] || usage; run "${@:2}" ;;
  report) [ $# -eq 2 ] || usage; report "$2" ;;
  *) usage ;;
esac
