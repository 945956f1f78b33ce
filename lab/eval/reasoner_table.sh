#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The table of policies at equal bytes, judged by the reasoner.
#
#   lab/eval/reasoner_table.sh run RESULTS.jsonl [flags of `palimpsest eval`]
#   lab/eval/reasoner_table.sh report NAME RESULTS.jsonl
#
# `run` may be stopped and run again: it goes on where it was. On one H100 the grid takes some ten
# minutes; --timeout 8m cuts it into pieces. Environment: POLICIES, BYTES, PROBLEMS (256), BATCH
# (256), POOL (24GiB). For a CPU: PROBLEMS=16 BATCH=16 POOL=1GiB and --max-tokens 2000.
# `report` writes bench/results/NAME.jsonl, the pictures docs/pictures/NAME-*.svg and the tables of
# the documents. NAME is eval, or eval-long for chains of 4,000 tokens and more (--min-tokens 4000).
#
# PALIMPSEST_BIN: folder of palimpsest and palimpsest-decode; by default build/release/bin.
set -euo pipefail
cd "$(dirname "$0")/../.."

: "${PALIMPSEST_BIN:=$PWD/build/release/bin}"
export PALIMPSEST_BIN
export PALIMPSEST_DATA=$PWD

usage() {
  sed -n '3,16p' "$0" >&2
  exit 2
}

run() {
  local results=$1
  shift
  local policies=full,thinkv,rkv,longflow,h2o,window,random
  if [ -e lab/reasoner/model/queries.safetensors ]; then
    policies=full,anticipate,${policies#full,}
  else
    echo 'no codebook (lab/reasoner/model/queries.safetensors): without anticipate' >&2
  fi
  "$PALIMPSEST_BIN/palimpsest" eval --policy "${POLICIES:-$policies}" \
    --bytes "${BYTES:-2.5,5,10,20,40}" --limit "${PROBLEMS:-256}" --batch "${BATCH:-256}" \
    --pool-bytes "${POOL:-24GiB}" --out "$results" "$@"
}

report() {
  local name=$1 results=$2 folder
  folder=$(mktemp -d)
  trap "rm -rf '$folder'" EXIT
  "$PALIMPSEST_BIN/palimpsest" eval --no-run --out "$results" --pictures "$folder" --format json \
    > "$folder/table.jsonl"
  mkdir -p docs/pictures
  mv "$folder/table.jsonl" "bench/results/$name.jsonl"
  mv "$folder/accuracy.svg" "docs/pictures/$name-accuracy.svg"
  mv "$folder/timelines.svg" "docs/pictures/$name-timelines.svg"
  python3 bench/make_table.py
}

case "${1:-}" in
  run) [ $# -ge 2 ] || usage; run "${@:2}" ;;
  report) [ $# -eq 3 ] || usage; report "$2" "$3" ;;
  *) usage ;;
esac
