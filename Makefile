# Every command of the project; `make` lists them. CI calls these and nothing else.

PYTHON ?= python3.11

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.pawl-installed

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# A tier named here must run and pass; a skipped test of it fails the session (tests/support/tiers.py).
TIERS := unit,s3,ray,prefect

# Processes that share the tests of the matrices. Most of those wait for real servers and processes, so more than the cores.
JOBS ?= 3
PYTEST := $(BIN)/pytest --numprocesses $(JOBS) --dist worksteal

# Every outcome is kept, so that hours of tests can be run in pieces, and those of slow tests on several days, if
# docs/matrices.jsonl is committed in between (tests/support/journal_plugin.py).
MATRICES := PAWL_JOURNAL=build/test-all.jsonl PAWL_SLOW_JOURNAL=docs/matrices.jsonl HYPOTHESIS_PROFILE=ci

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(INSTALLED) ## Make .venv and install Pawl with its tools, all versions pinned (PYTHON=python3.12 for another one)

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH; name another one, as in: make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	@touch $@

.PHONY: setup-s3
setup-s3: ## Install the Ceph gateway that the S3 tests talk to (Debian packages; needs root)
	@tests/support/install_ceph.sh

.PHONY: setup-prometheus
setup-prometheus: ## Install the Prometheus that answers the dashboard's queries in a test (Debian package; needs root)
	@tests/support/install_prometheus.sh

.PHONY: setup-browser
setup-browser: setup ## Install what the browser tests need: Chromium (Debian package; needs root), Playwright in .browser/
	@tests/support/install_browser.sh
	@$(BIN)/python -c 'import sys; sys.path.append(".browser"); import playwright' 2>/dev/null || \
	    $(BIN)/pip install --quiet --disable-pip-version-check --target .browser --requirement tests/browser/requirements.txt

.PHONY: train
train: setup ## Train the digits loop here with everything embedded; storage is ./pawl-store
	env -u PREFECT_API_URL -u PREFECT_API_KEY -u PREFECT_PROFILE PREFECT_HOME=$(CURDIR)/.pawl/prefect \
	    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=90 \
	    $(BIN)/pawl train ray_workers.loops.digits:train_loop --run digits

.PHONY: up
up: setup setup-s3 ## Start Prefect, an S3 server and a worker on this machine, all set up; data stays in .pawl/
	$(BIN)/pawl up

.PHONY: down
down: ## End what `make up` started
	$(BIN)/pawl down

.PHONY: test
test: setup setup-s3 ## Run the tests: unit, conformance, Ceph, Ray, Prefect, one kill for every way back
	PAWL_REQUIRE_TIERS=$(TIERS) $(BIN)/python -m tests.support.sessions

.PHONY: test-long
test-long: setup setup-s3 ## Run what takes too long for `make test`: Ctrl-C, Ray jobs, many ranks, other numbers of workers
	PAWL_REQUIRE_TIERS=$(TIERS) $(BIN)/python -m tests.support.sessions --long --processes $(JOBS)

.PHONY: test-fast
test-fast: setup ## Run the tests that need no Ray, Prefect or server
	PAWL_REQUIRE_TIERS=unit $(BIN)/pytest \
	    -m 'not s3 and not ray and not prefect and not fault and not slow and not long and not benchmark and not gpu'

.PHONY: test-all
test-all: setup setup-s3 setup-prometheus setup-browser ## Run every test, the full matrices among them; stopped, it goes on where it was
	@# What failed beside others runs once more, alone.
	$(MATRICES) $(PYTEST) -m 'not benchmark' || { status=$$?; test $$status -eq 1 || exit $$status; echo "Failed beside others; now alone:"; \
	    $(MATRICES) $(BIN)/pytest --numprocesses 0 -m 'not benchmark'; }
	$(BIN)/python -m tests.support.matrix_table docs/reliability.md build/test-all.jsonl docs/matrices.jsonl

.PHONY: test-faults
test-faults: setup setup-s3 ## Play the whole fault sweep on memory, folder and Ceph; writes its tables into docs/reliability.md
	$(BIN)/python -m tests.support.fault_campaign --journal build/faults.jsonl --report docs/reliability.md

# How long, and the seed of the first round.
MINUTES ?= 10
SEED ?= 1

.PHONY: fuzz
fuzz: setup ## Give altered and damaged bytes to whatever reads a store, for MINUTES=10; ends at the first error that is not ours
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,fuzz]' --constraint constraints.txt
	$(BIN)/python -m tests.support.fuzz --minutes $(MINUTES) --seed $(SEED)

# BENCH="--targets local sink ceph" measures more servers; `-h` lists the options. The larger state goes without rivals,
# which take an hour.
BENCH ?=

.PHONY: bench
bench: setup ## Measure stalls, uploads and restores beside the rivals, write docs/performance.md; never fails on a time
	$(BIN)/python -m benchmarks --mib 512 --write docs/performance.md --block figures $(BENCH)
	$(BIN)/python -m benchmarks --mib 2048 --rival-rounds 0 --no-decisions --write docs/performance.md --block figures-large $(BENCH)

.PHONY: bench-interval
bench-interval: setup ## Play the rules for the interval between saves against each other; writes docs/interval.md
	$(BIN)/python -m benchmarks.interval_run --write docs/interval.md $(BENCH)

.PHONY: bench-overhead
bench-overhead: setup ## Train with saves at the interval of `auto` and without, in turns; writes what they cost into docs/interval.md; runs add up
	$(BIN)/python -m benchmarks.overhead_run --journal build/overhead.jsonl --write docs/interval.md $(BENCH)

.PHONY: bench-node
bench-node: setup ## Restore replicated state on ranks of one node, shared and each for itself; writes docs/performance.md
	$(BIN)/python -m benchmarks.node_restore --write docs/performance.md $(BENCH)

.PHONY: bench-scale
bench-scale: setup ## Play 1 to 10,000 ranks, 1,000 versions, 100,000 records; writes their table in docs/performance.md
	$(BIN)/python -m benchmarks.scale --write docs/performance.md $(BENCH)

.PHONY: test-prefect
test-prefect: setup setup-s3 ## Play Pawl under real Prefect and Ray: server, workers, clusters, nodes in network namespaces (root, iproute2)
	$(BIN)/pytest tests/integration -m 'prefect and not benchmark'

.PHONY: test-browser
test-browser: setup setup-browser ## Click through both of Prefect's UIs with a real browser
	$(BIN)/pytest tests/browser -m 'prefect'

.PHONY: screenshots
screenshots: setup setup-browser ## Click as test-browser does, and make the pictures in docs/screenshots anew
	PAWL_SCREENSHOTS=docs/screenshots $(BIN)/pytest tests/browser -m 'prefect'

.PHONY: ways-back
ways-back: setup setup-s3 ## Make every failure, come back, and write what it cost into docs/reliability.md
	rm -f build/ways-back.jsonl
	$(BIN)/pytest tests/integration/test_ways_back_measured.py tests/integration/test_several_nodes.py -m 'slow'
	$(BIN)/python -m tests.support.ways_back_table build/ways-back.jsonl docs/reliability.md

.PHONY: interruptions
interruptions: setup setup-s3 ## Interrupt at every stage of a save, here and on a separate cluster; writes its table into docs/reliability.md
	rm -f build/interruptions.jsonl
	$(BIN)/pytest tests/integration/test_interruption_stages.py -m 'slow'
	$(BIN)/python -m tests.support.interruption_table build/interruptions.jsonl docs/reliability.md

.PHONY: drills
drills: setup setup-s3 ## Restore versions from Ceph on fresh workers, and write what that took into docs/reliability.md
	rm -f build/drills.jsonl
	$(BIN)/pytest tests/integration/test_drill.py -m 'slow' -k restored
	$(BIN)/python -m tests.support.drill_table build/drills.jsonl docs/reliability.md

# RUNS=1 plays one more of the runs that make up so many kills; runs add up in build/kills.jsonl.
KILLS ?= 30
RUNS ?= 1000

.PHONY: kills
kills: setup ## Kill workers, actors, flows and Ray at drawn moments, KILLS=30 SEED=1; writes its table into docs/reliability.md
	$(BIN)/python -m tests.support.kill_campaign --kills $(KILLS) --seed $(SEED) --runs $(RUNS) --report docs/reliability.md

.PHONY: campaign
campaign: setup ## Damage every stored object in every way, and write what came of it into docs/reliability.md
	$(BIN)/python -m tests.support.corruption_campaign --report docs/reliability.md

.PHONY: check
check: setup ## Lint, format, types, import directions, spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

.PHONY: format
format: setup ## Sort imports, mend what ruff can mend, format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: reference
reference: setup ## Write docs/reference.md from the code
	$(BIN)/python docs/make_reference.py

.PHONY: wheels
wheels: setup ## Resolve all pins to wheels for Python 3.12 and 3.13, which need not be installed here; downloads no package
	$(BIN)/python -m tests.support.wheel_check

.PHONY: clean
clean: ## Remove .venv, caches and build output; keeps ./pawl-store and ./.pawl
	rm -rf $(VENV) *.egg-info build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
