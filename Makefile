# The front door. Every target installs what is missing (Debian 12, apt), configures, builds, runs.
# With nothing missing no target uses the network. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

JOBS ?= $(shell nproc)
# Arguments of the program, as in: make demo ARGS="--policy thinkv --budget 1024"
ARGS ?=
PACKAGES := $(shell sed 's/\#.*//' deploy/packages-debian12.txt)
CTEST := ctest --output-on-failure --no-tests=error -j$(JOBS) --output-junit
# Folders of tests/ with threads or sockets in them: what ThreadSanitizer is for. The rest is pure.
TSAN_FOLDERS := base rpc kvstore decode

.PHONY: help
help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

.PHONY: demo
demo: build ## Solve held-out problems from a compressed cache, with a store and a worker
	build/release/bin/palimpsest demo $(ARGS)

.PHONY: eval
eval: build ## Judge every policy at equal bytes by answers and by predictions; for a GPU, goes on where it stopped
	lab/eval/reasoner_table.sh run build/eval.jsonl $(ARGS)
	lab/eval/reasoner_table.sh report eval build/eval.jsonl
	BYTES=2.5,5,10 lab/eval/reasoner_table.sh run build/eval-long.jsonl --min-tokens 4000 $(ARGS)
	lab/eval/reasoner_table.sh report eval-long build/eval-long.jsonl
	lab/agreement/make_smollm2.sh build/smollm2-135m
	lab/likelihood/judge_smollm2.sh run build/smollm2-135m build/likelihood.jsonl
	lab/likelihood/judge_smollm2.sh report build/likelihood.jsonl

.PHONY: test
test: build ## Run every test that this machine can run; the others say why they are skipped
	cd build/release && $(CTEST) junit.xml
# The first python3 may be a private one that does not see Debian's packages.
	for python in python3 /usr/bin/python3; do \
	  if "$$python" -c 'import pytest' 2> /dev/null; then \
	    exec "$$python" -B -m pytest -q -p no:cacheprovider --junit-xml=build/release/pytest.xml tests/lab; \
	  fi; \
	done; echo 'tests/lab skipped: no python3 with pytest'

.PHONY: build
build: build/release/build.ninja ## Build everything, optimised, asserts on
	cmake --build --preset release -j$(JOBS)

.PHONY: sanitize
sanitize: build/dev/build.ninja build/tsan/build.ninja ## Run the tests under ASan, UBSan and TSan
	ninja -C build/dev -j$(JOBS) services/all tests/all
	cd build/dev && $(CTEST) junit.xml -LE 'tidy|bench|slow'
	ninja -C build/tsan -j$(JOBS) $(TSAN_FOLDERS:%=tests/%/all)
# One OpenMP thread: libgomp is not instrumented, and its barriers would look like races.
	failed=0; for folder in $(TSAN_FOLDERS); do \
	  (cd build/tsan/tests/$$folder && OMP_NUM_THREADS=1 ctest --output-on-failure -j$(JOBS) \
	     -LE 'tidy|bench|slow' --output-junit $(CURDIR)/build/tsan/junit-$$folder.xml) || failed=1; \
	done; exit $$failed

.PHONY: cuda
cuda: packages ## Build the CUDA kernels; needs nvcc, not a GPU
	cmake --preset cuda
	cmake --build --preset cuda -j$(JOBS)

.PHONY: format-check
format-check: packages ## Check the layout of the C++ sources against .clang-format
	@tests/tidy/sources.sh | xargs -0 clang-format --dry-run -Werror
	@echo 'format-check: every file is laid out as .clang-format says'

.PHONY: format
format: packages ## Lay the C++ sources out as .clang-format says
	@tests/tidy/sources.sh | xargs -0 clang-format -i

.PHONY: clean
clean: ## Remove what was built
	rm -rf build/release build/dev build/tsan build/cuda

build/%/build.ninja: | packages
	cmake --preset $*

# Only what dpkg does not know is asked for; apt runs only then.
.PHONY: packages
packages:
	@missing=(); for package in $(PACKAGES); do \
	  status=$$(dpkg-query -W -f='$${db:Status-Status}' "$$package" 2>/dev/null || true); \
	  [ "$$status" = installed ] || missing+=("$$package"); \
	done; \
	[ $${#missing[@]} -eq 0 ] && exit 0; \
	command -v apt-get > /dev/null || { \
	  echo "error: these packages are missing and there is no apt-get: $${missing[*]}" >&2; exit 2; }; \
	sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	echo "installing: $${missing[*]}"; \
	$$sudo apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends "$${missing[@]}"
