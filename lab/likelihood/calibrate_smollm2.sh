#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Measures the SmolLM2-135M folder that lab/agreement/make_smollm2.sh makes, on texts that no
# judgement uses: calibration.json and queries.safetensors appear in it, where `palimpsest likelihood`
# finds them. A minute on a GPU, a quarter of an hour on a few cores.
#   lab/likelihood/calibrate_smollm2.sh FOLDER [PALIMPSEST]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
palimpsest=${2:-$here/../../build/release/bin/palimpsest}
[ -f "$1/queries.safetensors" ] && exit 0
"$palimpsest" calibrate --model "$1" --texts "$here/calibration" --max-new-tokens 4096 --every 16 \
  --out "$1/calibration.json"
