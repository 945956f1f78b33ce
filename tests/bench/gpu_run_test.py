# SPDX-License-Identifier: Apache-2.0
"""tests/gpu/run where there is no GPU, with programs that only pretend: what becomes a result.

Usage: gpu_run_test.py ROOT
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

RUN = pathlib.Path(sys.argv[1]).resolve() / "tests/gpu/run"


def program(path: pathlib.Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def benchmark(folder: pathlib.Path, name: str, code: int) -> None:
    lines = [{"bench": name, "device": "Some GPU", "commit": "0123456789ab"},
             {"bench": name, "policy": "full", "batch": 1}]
    text = "\n".join(json.dumps(line) for line in lines)
    program(folder / f"bin/{name}_bench", f"echo '{text}'\nexit {code}")


def run(*arguments: str, path: pathlib.Path = pathlib.Path("/none")) -> subprocess.CompletedProcess:
    return subprocess.run([RUN, *arguments], text=True, capture_output=True, timeout=60, check=False,
                          env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"})


def main() -> None:
    without = run("--list-tests")
    assert without.returncode == 2 and "wants --build-dir DIR" in without.stderr, without
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        program(folder / "tools/nvidia-smi", "echo Some GPU")
        program(folder / "tools/python3", f"""case $1 in *attend_flashinfer.py)
  echo '{{"bench": "attend", "device": "Some GPU"}}'; echo 'No module named flashinfer'; exit 77 ;;
esac
exec {sys.executable} "$@" """)
        for bench, code in (("attend", 0), ("select", 0), ("step", 1), ("throughput", 77)):
            benchmark(folder, bench, code)
        done = run("--only", "benchmarks", "--build-dir", name, "--results", f"{name}/results",
                   path=folder / "tools")
        assert done.returncode == 1, done
        for line in ("ok       attend ", "skipped  slot_score: not built", "FAILED   step: exit",
                     "No module named flashinfer\nskipped  attend-others", "skipped  throughput",
                     "1 failed"):
            assert line in done.stdout, (line, done.stdout, done.stderr)
        results = sorted(path.name for path in (folder / "results").iterdir())
        assert results == ["attend.json", "select.json"], results
    print("only what ended well is a result")


if __name__ == "__main__":
    main()
