# SPDX-License-Identifier: Apache-2.0
"""The house's rules that a machine can check. Prints file:line: rule: reason; exits 1 if any.

  tidy_test.py [--tests BUILD_DIR] ROOT

To break a rule with reason, write `tidy: allow RULE, because ...` in a comment on that line or the
one before.
"""
from __future__ import annotations

import argparse
import pathlib
import re
import subprocess
import sys

SOURCE_FOLDERS = ("common", "kernels", "services", "tests", "bench", "proto")
CPP = {".h", ".cc", ".cu", ".cuh"}
TEXT = CPP | {".py", ".sh", ".cmake", ".txt", ".capnp", ".json", ".yaml", ".yml", ".md", ""}
LINES_MAX = 600
COLUMNS_MAX = 100
# Files longer than LINES_MAX that still wait to be split. Only ever shrinks.
LONG_FILES: dict[str, int] = {}

# What a folder may include of ours. The longest prefix that matches a file's path rules it.
# tests and bench may include everything.
SERVICE = ("common", "kernels", "proto")
MAY_INCLUDE = {
    "common/base": ("common/base",),
    "common/policy": ("common/base", "common/policy"),
    # Plain data of the policy (specs, segments, plans) is what travels.
    "common/rpc": ("common/base", "common/policy", "common/rpc", "proto"),
    "kernels": ("common/base", "kernels"),
    "services/kvstore": (*SERVICE, "services/kvstore"),
    "services/decode": (*SERVICE, "services/decode"),
    # The front end: calibrates with the engine in process. Nothing includes it.
    "services/cli": (*SERVICE, "services/cli", "services/decode"),
}
# Of base, policy sees types only: nothing that logs, measures, parses or tells the time.
POLICY_BASE = {"check.h", "status_macros.h", "thought.h", "format.h", "limits.h", "selector.h",
               "segment.h", "svg.h", "units.h", "ids.h"}
# Foreign headers that only some folders may include: pattern -> (folders, why).
FOREIGN = [
    (r"(kj|capnp)/|.*\.capnp\.h$",
     ("common/rpc", "proto", "services/kvstore/server", "services/kvstore/connection",
      "services/kvstore/objects", "services/kvstore/main", "services/decode/server",
      "services/decode/store_client", "services/decode/main", "services/cli"),
     "kj stops at the server, the store client and common/rpc"),
    (r"prometheus/",
     ("common/base/metrics", "services/kvstore/main", "services/decode/main",
      "services/decode/worker_observers", "services/kvstore/store_observer"),
     "metrics are defined in common/base/metrics and used through its structs"),
    (r"(cuda|nccl|cublas)",
     ("kernels/cuda", "services/decode/model/cuda"),
     "CUDA stays behind the Backend and the Model seam"),
    (r"yaml-cpp/", ("common/base/settings_yaml",), "settings are read in one place"),
    (r"spdlog/", ("common/base/log",), "records are written in one place"),
    (r"civetweb|CivetServer",
     ("common/base/health_server", "services/decode/server", "services/cli"),
     "HTTP stays at the edge"),
]
TOOLS_AND_TESTS = ("tests/", "bench/")
# Where printing to stdout is the point: the CLI, --help, and the ports a service was given at start,
# which its parent process reads.
MAY_PRINT = ("services/cli/", "common/base/settings_flags.cc", "services/kvstore/main.cc",
             "services/decode/main.cc")


class Findings:
    def __init__(self, root: pathlib.Path):
        self.root = root
        self.lines: list[str] = []

    def add(self, path: pathlib.Path, line: int, rule: str, why: str) -> None:
        self.lines.append(f"{path.relative_to(self.root)}:{line}: {rule}: {why}")


def code_only(text: str) -> str:
    """The text with comments and the insides of literals blanked, line breaks kept."""
    pattern = re.compile(
        r'R"(?P<d>[^\s()\\]{0,16})\(.*?\)(?P=d)"|//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"'
        r"|(?<![0-9A-Za-z_])'(?:\\.|[^'\\\n])+'", re.S)

    def blank(match: re.Match) -> str:
        return re.sub(r"[^\n]", " ", match.group())

    return pattern.sub(blank, text)


def allowed(lines: list[str], index: int, rule: str) -> bool:
    here = " ".join(lines[max(0, index - 1):index + 1])
    return re.search(rf"tidy: allow {re.escape(rule)}, because \w", here) is not None


def rule_of(path: str) -> tuple[str, ...] | None:
    best = max((p for p in MAY_INCLUDE if path.startswith(p + "/")), key=len, default=None)
    return MAY_INCLUDE[best] if best else None


def check_includes(name: str, path: pathlib.Path, lines: list[str], out: Findings) -> None:
    may = rule_of(name)
    for i, line in enumerate(lines):
        match = re.match(r'\s*#\s*include\s*["<]([^">]+)[">]', line)
        if not match or allowed(lines, i, "dependency"):
            continue
        target = match.group(1)
        if target.startswith(".."):
            out.add(path, i + 1, "include", "write the path from the root of the tree")
        ours = target.split("/")[0] in SOURCE_FOLDERS
        if name.startswith(TOOLS_AND_TESTS):
            continue
        if ours and may is not None and not target.startswith(tuple(m + "/" for m in may)):
            out.add(path, i + 1, "dependency",
                    f"{target} is not for this folder; it may use {', '.join(may)}")
        if name.startswith("common/policy/") and target.startswith("common/base/"):
            if target.removeprefix("common/base/") not in POLICY_BASE:
                out.add(path, i + 1, "dependency", f"policy is pure; {target} is not")
        for pattern, folders, why in FOREIGN:
            if re.match(pattern, target) and not name.startswith(folders):
                out.add(path, i + 1, "dependency", f"{target}: {why}")


BANNED = [
    ("throw", r"\bthrow\b", "an error is an absl::Status"),
    ("new", r"(?<!operator )\bnew\b(?!\s*\()\s+[A-Za-z_:]",
     "make_unique; for a private constructor: absl::WrapUnique(new ...)"),
    ("delete", r"\bdelete\b(?!\s*;)(?:\s*\[\s*\])?\s+[A-Za-z_(*]|\bdelete\s*\[",
     "a smart pointer owns it"),
    ("malloc", r"\b(?:malloc|calloc|realloc)\s*\(", "a container or a smart pointer owns memory"),
    ("unsafe", r"\b(?:strcpy|strcat|sprintf|vsprintf|gets|strtok|atoi|atof|rand|srand)\s*\(",
     "unbounded, or hides its errors"),
]
PRINTS = re.compile(r"\bstd::cout\b|(?<![\w.>:])(?:std::)?(?:printf|puts|putchar)\s*\(|\bstdout\b")


def check_banned(name: str, path: pathlib.Path, lines: list[str], code: list[str],
                 out: Findings) -> None:
    if name.startswith(TOOLS_AND_TESTS):
        return
    for i, line in enumerate(code):
        for rule, pattern, why in BANNED:
            if not re.search(pattern, line) or allowed(lines, i, rule):
                continue
            owner = r"WrapUnique\(|unique_ptr<|NoDestructor"  # in this line or broken after it
            if rule == "new" and re.search(owner, code[max(0, i - 1)] + line):
                continue
            out.add(path, i + 1, rule, why)
        if PRINTS.search(line) and not name.startswith(MAY_PRINT) and not allowed(lines, i, "stdout"):
            out.add(path, i + 1, "stdout", "stdout belongs to the CLI; a service writes to its log")


def check_shape(name: str, path: pathlib.Path, lines: list[str], out: Findings) -> None:
    limit = LONG_FILES.get(name, LINES_MAX)
    if len(lines) > limit:
        out.add(path, limit + 1, "length", f"{len(lines)} lines; split the file ({limit} allowed)")
    if name in LONG_FILES and len(lines) <= LINES_MAX:
        out.add(path, 1, "length", "short enough now: take it off LONG_FILES in tidy_test.py")
    for i, line in enumerate(lines):
        if len(line) > COLUMNS_MAX and "http" not in line and not allowed(lines, i, "columns"):
            out.add(path, i + 1, "columns", f"{len(line)} columns; {COLUMNS_MAX} allowed")
        if line != line.rstrip():
            out.add(path, i + 1, "blank", "the line ends in blanks")
    head = "\n".join(lines[:3])
    if "SPDX-License-Identifier: Apache-2.0" not in head:
        out.add(path, 1, "spdx", "the first lines lack '// SPDX-License-Identifier: Apache-2.0'")
    if path.suffix in {".h", ".cuh"} and "#pragma once" not in lines:
        out.add(path, 1, "pragma", "a header starts with #pragma once")
    if re.search(r"using namespace (?!std::literals|std::chrono_literals)", "\n".join(lines)) \
            and path.suffix in {".h", ".cuh"}:
        out.add(path, 1, "namespace", "no using namespace in a header")


# A path that exists on one machine only. Built from parts, so that this file does not match itself.
MACHINE_PATH = re.compile("/(?:" + "|".join(("home/" + r"\w", "Users/" + r"\w", "root" + "/",
                                              "work/" + "main", "work/" + "shared")) + ")")


def check_machine_paths(path: pathlib.Path, lines: list[str], out: Findings) -> None:
    for i, line in enumerate(lines):
        if MACHINE_PATH.search(line) and not allowed(lines, i, "path"):
            out.add(path, i + 1, "path", "a path of one machine; make it relative to the tree")


def without_comments(text: str) -> str:
    return re.sub(r"#[^\n]*", "", text)


def check_listed(root: pathlib.Path, files: list[pathlib.Path], out: Findings) -> None:
    """Every source is named by the CMakeLists.txt of its folder or of one above."""
    texts: dict[pathlib.Path, str] = {}
    for path in files:
        if path.suffix not in {".cc", ".cu"}:
            continue
        found = False
        for folder in path.parents:
            if root != folder and root not in folder.parents:
                break
            lists = folder / "CMakeLists.txt"
            if folder not in texts:
                texts[folder] = without_comments(lists.read_text()) if lists.exists() else ""
            relative = re.escape(str(path.relative_to(folder)))
            if re.search(rf"(?<![\w./-]){relative}(?![\w.])", texts[folder]):
                found = True
            # A folder with one program a file may list names, and build ${name}.cc of each.
            for suffix in re.findall(r"\$\{\w+\}(\w*)\.(?:cc|cu)\b", texts[folder]):
                listed = re.escape(str(path.relative_to(folder).with_suffix(""))
                                   .removesuffix(suffix))
                if re.search(rf"(?<![\w./-]){listed}(?![\w.])", texts[folder]):
                    found = True
        if not found:
            out.add(path, 1, "cmake", "no CMakeLists.txt builds this file")


def check_registered(root: pathlib.Path, build: pathlib.Path | None, files: list[pathlib.Path],
                     out: Findings) -> None:
    """Every *_test.cc is built as a test, and ctest knows every test."""
    for path in files:
        if not path.name.endswith("_test.cc"):
            continue
        lists = next((f / "CMakeLists.txt" for f in path.parents
                      if (f / "CMakeLists.txt").exists()), None)
        text = without_comments(lists.read_text()) if lists else ""
        if "palimpsest_test(" not in text and "add_test(" not in text:
            out.add(path, 1, "ctest", "the nearest CMakeLists.txt registers no test")
    if build is None:
        return
    known = subprocess.run(["ctest", "--test-dir", str(build), "-N"], capture_output=True,
                           text=True, check=False).stdout
    names = set(re.findall(r"Test\s+#\d+: (\S+)", known))
    # Names that are written out; loops make others of ${...}.
    named = {lists: list(re.finditer(r"palimpsest_test\(\s*([A-Za-z0-9_]+)(?=[\s)])",
                                     without_comments(lists.read_text())))
             for lists in sorted(root.glob("tests/**/CMakeLists.txt"))}
    # A build without CUDA, or without a part of it, leaves folders named cuda out, and then tests
    # elsewhere that are named so.
    is_built = {lists: any(m.group(1) in names for m in matches)
                for lists, matches in named.items() if lists.parent.name == "cuda"}
    for lists, matches in named.items():
        text = without_comments(lists.read_text())
        for match in matches:
            name = match.group(1)
            wanted = is_built.get(lists, not name.startswith("cuda_") or all(is_built.values()))
            if wanted and name not in names:
                line = text[:match.start()].count("\n") + 1
                out.add(lists, line, "ctest", f"{name} is not known to ctest")


def sources(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for folder in SOURCE_FOLDERS for p in (root / folder).rglob("*")
                  if p.is_file() and p.suffix in CPP)


def text_files(root: pathlib.Path) -> list[pathlib.Path]:
    folders = (*SOURCE_FOLDERS, "cmake", "deploy", "docs", ".ci", "lab")
    found = [p for p in root.iterdir() if p.is_file() and p.suffix in TEXT and p.name != ".git"]
    for folder in folders:
        found += [p for p in (root / folder).rglob("*")
                  if p.is_file() and p.suffix in TEXT and p.stat().st_size < 1 << 20
                  and "__pycache__" not in p.parts]
    return sorted(found)


def check_tree(root: pathlib.Path, build: pathlib.Path | None) -> list[str]:
    out = Findings(root)
    files = sources(root)
    for path in files:
        name = str(path.relative_to(root))
        text = path.read_text(errors="replace")
        lines = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
        check_shape(name, path, lines, out)
        check_includes(name, path, lines, out)
        check_banned(name, path, lines, code_only(text).split("\n"), out)
    for path in text_files(root):
        check_machine_paths(path, path.read_text(errors="replace").split("\n"), out)
    check_listed(root, files, out)
    check_registered(root, build, files, out)
    return out.lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tests", type=pathlib.Path, help="a build directory, to ask ctest")
    parser.add_argument("root", type=pathlib.Path)
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    findings = check_tree(root, arguments.tests)
    for line in findings:
        print(line)
    print(f"tidy: {len(sources(root))} sources, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
