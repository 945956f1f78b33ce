# SPDX-License-Identifier: Apache-2.0
"""Runs the README: every command of its shell blocks, in order, from the repository's root.

Lines that start a server (they do not end) run in the background and are stopped at the end with
SIGTERM, which they must answer with exit code 0. `make` targets are only checked to exist: CI runs
`make test`, which builds, and process tests run what `make demo` and `make eval` are made of.
Usage: readme_test.py ROOT BIN, where BIN replaces build/release/bin.
"""
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import time

SERVERS = ("palimpsest-kvstore", "palimpsest-decode")
PORTS = (7401, 7402, 7501, 7502)  # the servers' usual ones
TIMEOUT_S = 300


def commands(readme: str) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def taken_port() -> int | None:
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return port
    return None


def start_server(argv: list[str], root: pathlib.Path) -> subprocess.Popen:
    process = subprocess.Popen(argv, cwd=root, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:  # ends with the process, should it fail
        if line.startswith("metrics on "):
            return process
    sys.exit(f"FAILED: {shlex.join(argv)}: ended with {process.wait()} before it served")


def main() -> None:
    root, binaries = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    if (port := taken_port()) is not None:
        print(f"SKIPPED: port {port}, which the README's commands use, is taken")
        return
    targets = (root / "Makefile").read_text()
    servers: list[subprocess.Popen] = []
    count = 0
    try:
        for line in commands((root / "README.md").read_text()):
            argv = shlex.split(line)
            start = time.monotonic()
            count += 1
            if argv[0] == "make":
                if not re.search(rf"^{re.escape(argv[1])}:", targets, re.MULTILINE):
                    sys.exit(f"FAILED: {line}: no such target")
                continue
            argv[0] = argv[0].replace("build/release/bin", str(binaries))
            if argv[0].endswith(SERVERS):
                servers.append(start_server(argv, root))
            else:
                done = subprocess.run(argv, cwd=root, capture_output=True, text=True,
                                      timeout=TIMEOUT_S, check=False)
                if done.returncode != 0:
                    sys.exit(f"FAILED: {line}: exit code {done.returncode}\n"
                             f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
            print(f"ok ({time.monotonic() - start:.1f} s): {line}", flush=True)
    finally:
        codes = []
        for server in servers:
            server.terminate()
            codes.append(server.wait(timeout=60))
    if count == 0 or any(codes):
        sys.exit(f"FAILED: {count} commands, servers ended with {codes}")
    print(f"{count} commands of the README work")


if __name__ == "__main__":
    main()
