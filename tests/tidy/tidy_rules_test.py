# SPDX-License-Identifier: Apache-2.0
"""Each rule of tidy_test.py finds what it is for, at the right line, and leaves good files alone."""
from __future__ import annotations

import pathlib
import tempfile
import unittest

import tidy_test

SPDX = "// SPDX-License-Identifier: Apache-2.0\n"


class TidyRules(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)

    def check(self, files: dict[str, str]) -> list[str]:
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            if path.suffix == ".cc":
                with open(path.parent / "CMakeLists.txt", "a") as lists:
                    lists.write(f"palimpsest_test(x SRCS {path.name})\n")
        return tidy_test.check_tree(self.root, None)

    def assert_one(self, files: dict[str, str], start: str):
        found = self.check(files)
        self.assertEqual(len(found), 1, found)
        self.assertTrue(found[0].startswith(start), found[0])

    def test_a_good_tree_has_no_findings(self):
        self.assertEqual(self.check({
            "common/policy/a.h": SPDX + '#pragma once\n#include "common/base/format.h"\n',
            "services/kvstore/a.cc": SPDX + '#include "common/policy/a.h"\n'
                                            '// throw new printf("x");\nconst char* a = "throw";\n',
            "tests/a/a_test.cc": SPDX + '#include "services/decode/x.h"\nint* p = new int;\n',
        }), [])

    def test_dependencies_point_one_way(self):
        cases = {
            "common/base/a.cc": "common/policy/policy.h",
            "common/policy/a.cc": "kernels/layout.h",
            "kernels/cpu/a.cc": "common/policy/policy.h",
            "services/kvstore/a.cc": "services/decode/pool.h",
            "services/decode/c.cc": "services/cli/render.h",
            "services/decode/a.cc": "services/kvstore/engine.h",
            "services/decode/engine/b.cc": "kj/async.h",
            "services/kvstore/engine/c.cc": "prometheus/counter.h",
            "kernels/cpu/d.cc": "cuda_runtime.h",
        }
        for name, header in cases.items():
            with self.subTest(name):
                self.setUp()
                self.assert_one({name: f'{SPDX}\n#include "{header}"\n'}, f"{name}:3: dependency: ")

    def test_policy_sees_no_clock_and_no_log(self):
        for header in ("clock.h", "log.h", "metrics.h", "settings.h"):
            self.setUp()
            self.assert_one({"common/policy/a.cc": f'{SPDX}#include "common/base/{header}"\n'},
                            "common/policy/a.cc:2: dependency: policy is pure")

    def test_banned_calls(self):
        cases = {"throw std::runtime_error(\"x\");": "throw", "auto* a = new Foo;": "new",
                 "delete pointer;": "delete", "delete[] pointer;": "delete",
                 "void* a = malloc(3);": "malloc", "strcpy(a, b);": "unsafe",
                 "printf(\"x\");": "stdout", "std::cout << 1;": "stdout",
                 "std::fputs(\"x\", stdout);": "stdout"}
        for code, rule in cases.items():
            with self.subTest(code):
                self.setUp()
                self.assert_one({"services/kvstore/a.cc": f"{SPDX}{code}\n"},
                                f"services/kvstore/a.cc:2: {rule}: ")

    def test_what_only_looks_banned(self):
        good = ("A(const A&) = delete;\nnew (&place) Foo();\nint news = renew(1);\n"
                "snprintf(a, 1, b);\nmg_printf(c, d);\nint x = 1'000;\nchar c = '\"';\n"
                "fprintf(stderr, f);\nreturn absl::WrapUnique(new Foo(1));\n"
                "auto s = R\"(throw \" new X)\";\n")
        self.assertEqual(self.check({"services/kvstore/a.cc": SPDX + good}), [])

    def test_the_cli_may_print(self):
        self.assertEqual(self.check({"services/cli/a.cc": SPDX + 'printf("x");\n'}), [])

    def test_an_exception_needs_a_reason(self):
        self.assertEqual(self.check({"common/rpc/a.cc": SPDX +
                         "// tidy: allow throw, because kj expects one here\nthrow 1;\n"}), [])
        self.setUp()
        self.assert_one({"common/rpc/a.cc": SPDX + "// tidy: allow throw\nthrow 1;\n"},
                        "common/rpc/a.cc:3: throw")

    def test_shape(self):
        long_file = SPDX + "\n" * 600
        self.assert_one({"kernels/a.cc": long_file}, "kernels/a.cc:601: length: 601 lines")
        self.setUp()
        self.assert_one({"kernels/a.cc": SPDX + "// " + "x" * 98 + "\n"},
                        "kernels/a.cc:2: columns: 101")
        self.setUp()
        self.assert_one({"kernels/a.h": SPDX + "int a;\n"}, "kernels/a.h:1: pragma")
        self.setUp()
        self.assert_one({"kernels/a.h": "#pragma once\n"}, "kernels/a.h:1: spdx")
        self.setUp()
        self.assert_one({"kernels/a.cc": SPDX + "int a; \n"}, "kernels/a.cc:2: blank")

    def test_paths_of_one_machine(self):
        self.assert_one({"docs/a.md": "see\n/ho" + "me/someone/x\n"}, "docs/a.md:2: path")

    def test_sources_and_tests_are_listed(self):
        (self.root / "kernels").mkdir()
        (self.root / "kernels/a.cc").write_text(SPDX)
        (self.root / "kernels/CMakeLists.txt").write_text("# a.cc\nadd(b_a.cc)\n")
        self.assertEqual([f.split(":")[2] for f in tidy_test.check_tree(self.root, None)],
                         [" cmake"])
        self.setUp()
        (self.root / "tests").mkdir()
        (self.root / "tests/b_test.cc").write_text(SPDX)
        self.assertEqual([f.split(":")[2] for f in tidy_test.check_tree(self.root, None)],
                         [" cmake", " ctest"])
        (self.root / "tests/CMakeLists.txt").write_text(
            "foreach(t b)\n palimpsest_test(${t} SRCS ${t}_test.cc)\nendforeach()\n")
        self.assertEqual(tidy_test.check_tree(self.root, None), [])


if __name__ == "__main__":
    unittest.main()
