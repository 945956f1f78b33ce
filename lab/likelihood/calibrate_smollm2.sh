#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Measures the SmolLM2-135M folder that lab/agreement/make_smollm2.sh makes, on texts that no
# judgement uses: calibration.json and queries.safetensors, with shares of lanes, appear in it, where
# `palimpsest likelihood` finds them. A few minutes on a GPU, half an hour on a few cores. A codebook
# that lies there without shares gets them, and keeps its queries.
#   lab/likelihood/calibrate_smollm2.sh FOLDER [PALIMPSEST]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
palimpsest=${2:-$here/../../build/release/bin/palimpsest}
codebook=$1/queries.safetensors
if [ ! -f "$codebook" ]; then
  exec "$palimpsest" calibrate --model "$1" --texts "$here/calibration" --max-new-tokens 4096 \
    --every 16 --out "$1/calibration.json"
fi
# The names of its tensors come first.
if ! head -c 4096 "$codebook" | grep -aq '"lane_shares"'; then
  "$palimpsest" calibrate --model "$1" --texts "$here/calibration" --shares-of "$codebook" \
    --out "$codebook"
fi
