# Two commands: `make demo` runs the main job, `make test` passes the tests.
# Each builds what it needs in .venv from pinned, hashed requirements; nothing is installed outside this folder.

VENV   := .venv
BIN    := $(VENV)/bin
# The first interpreter that is new enough; set PYTHON to choose another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)
PIP     = $(BIN)/python -m pip --disable-pip-version-check --quiet

# Most tests wait for a server, so more of them run side by side than there are cores, each process with servers of its own. The
# longest begin first. Those marked "alone" measure rates, and have the machine for themselves afterwards; those marked "longest" run in
# `make faults`.
SIDE_BY_SIDE ?= -n 6 --dist load --maxschedchunk 2
LONGEST_FIRST = tests/faults tests/acceptance tests/integration tests/unit
TESTS = $(shell find tests -name '*.py' -type f)
ALONE = $(shell grep -rlF mark.alone tests --include='*.py')

.DEFAULT_GOAL := help
.PHONY: help demo test check unit lint up faults reach mailcheck browser clients bounces bench bench-full lock clean situations proxycheck

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/runtime: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 with venv found; install one or say make PYTHON=/path/to/python3" >&2; exit 2; }
	@echo "Setting up $(VENV) (once; about half a minute)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements.txt
	@touch $@

$(VENV)/dev: $(VENV)/runtime requirements-dev.txt
	@$(PIP) install --require-hashes -r requirements-dev.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/runtime ## the whole job against a sandbox bank: sweep, fetch, deliver, a summary
	@$(BIN)/python -m worker demo $(ARGS)

test: $(VENV)/dev ## every test, against real servers that it starts itself
ifdef ARGS
	@$(BIN)/python -m pytest $(ARGS)
else
	@$(MAKE) --no-print-directory $(VENV)/tests
	@$(BIN)/python -m pytest -m "not alone and not longest" $(LONGEST_FIRST) $(SIDE_BY_SIDE)
	@$(BIN)/python -m pytest -m alone $(ALONE)
endif

# pytest rewrites the assertions of every test module. Done here by two processes; without it each of those above does all of it.
$(VENV)/tests: $(VENV)/dev $(TESTS)
	@$(BIN)/python -m pytest --collect-only -qq tests/faults tests/acceptance tests/integration >/dev/null & other=$$!; \
	 $(BIN)/python -m pytest --collect-only -qq tests/unit >/dev/null && wait $$other && touch $@ || true

check: $(VENV)/dev ## lint, types and unit tests, in about a minute
	@$(MAKE) --no-print-directory -j 2 lint unit

unit: $(VENV)/dev
	@$(BIN)/python -m pytest tests/unit -m "not alone" -n 2 --dist load

lint: $(VENV)/dev ## ruff and mypy --strict
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

up: $(VENV)/runtime ## broker, worker, beat and Flower on this machine, with your .env
	@$(BIN)/python -m worker up $(ARGS)

faults: $(VENV)/dev ## kills, outages and bad days against real processes (FAULTS=long for the long form)
	@$(BIN)/python -m pytest tests/faults -m "not alone" $(ARGS)
	@$(BIN)/python -m pytest tests/faults -m alone

reach: $(VENV)/dev ## how many first clicks reach a live consent page, by who opened the mail before: two tables
	@REACH_CUSTOMERS=300 $(BIN)/python -m pytest -q -s --no-header tests/acceptance/test_reach.py $(ARGS)

mailcheck: $(VENV)/dev ## real mail server and SpamAssassin against every mail (installs both where it may)
	@$(BIN)/python -m ops.mailcheck $(ARGS)

proxycheck: $(VENV)/dev ## the snippets of ops/proxy in the real nginx and Caddy, before a real web process (installs both where it may)
	@$(BIN)/python -m ops.proxycheck $(ARGS)

# An environment of its own: nothing else needs a browser.
$(VENV)/browser/ready: requirements-dev.txt ops/browser/requirements.txt
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 with venv found; install one or say make PYTHON=/path/to/python3" >&2; exit 2; }
	@echo "Setting up $(VENV)/browser (once; about a minute)"
	@test -x $(VENV)/browser/bin/python || "$(PYTHON)" -m venv $(VENV)/browser
	@$(VENV)/browser/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-dev.txt -r ops/browser/requirements.txt
	@touch $@

browser: $(VENV)/browser/ready ## the customer's pages in a real Chromium, from the mail to the bank and back (installs Chromium where it may)
	@$(VENV)/browser/bin/python -m ops.browser $(ARGS)

# An environment of its own: MX's clients want older libraries than the worker.
$(VENV)/clients/ready: ops/clients/requirements.txt
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 with venv found; install one or say make PYTHON=/path/to/python3" >&2; exit 2; }
	@echo "Setting up $(VENV)/clients (once; some seconds)"
	@test -x $(VENV)/clients/bin/python || "$(PYTHON)" -m venv $(VENV)/clients
	@$(VENV)/clients/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r ops/clients/requirements.txt
	@touch $@

clients: $(VENV)/dev $(VENV)/clients/ready ## MX's own Python clients of both APIs against the sandbox: they list, read and mint
	@$(BIN)/python -m ops.clients --python $(VENV)/clients/bin/python

bounces: $(VENV)/dev ## the bounce reader over sisimai's public set: SET=DIR, a checkout of sisimai/rb-sisimai (ARGS=--misses)
	@test -n "$(SET)" || { echo "make: say SET=DIR, a checkout of https://github.com/sisimai/rb-sisimai" >&2; exit 2; }
	@$(BIN)/python -m ops.bouncecheck "$(SET)" $(ARGS)

situations: $(VENV)/dev ## what explain, status, doctor and Flower say in ten situations, as Markdown (ARGS=quiet_hours for one)
	@$(BIN)/python -m ops.situations $(ARGS)

# An environment of its own: what the worker is compared with has no business beside it.
$(VENV)/bench/ready: requirements-dev.txt ops/bench/requirements.txt
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 with venv found; install one or say make PYTHON=/path/to/python3" >&2; exit 2; }
	@echo "Setting up $(VENV)/bench (once; about a minute)"
	@test -x $(VENV)/bench/bin/python || "$(PYTHON)" -m venv $(VENV)/bench
	@$(VENV)/bench/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-dev.txt -r ops/bench/requirements.txt
	@touch $@

bench: $(VENV)/bench/ready ## how fast it is, and against what: one table, in some minutes (ARGS=--profile: where the time goes)
	@$(VENV)/bench/bin/python -m ops.bench $(ARGS)

bench-full: $(VENV)/bench/ready ## the same at full size, with curves; the better part of an hour
	@$(VENV)/bench/bin/python -m ops.bench --full $(ARGS)

lock: $(VENV)/dev ## write requirements*.txt anew from pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml --extra push --extra local -o requirements.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml --extra push -c requirements.txt -o requirements-production.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml --extra push --extra local --group dev -o requirements-dev.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		ops/bench/requirements.in -c requirements-dev.txt -o ops/bench/requirements.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		ops/browser/requirements.in -c requirements-dev.txt -o ops/browser/requirements.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		ops/clients/requirements.in -o ops/clients/requirements.txt

clean: ## remove what make made
	@rm -rf $(VENV) demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
