# The two commands: `make run` (everything embedded, trades flowing) and `make test` (the whole suite).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# To compile what it imports takes longer than all else in a start. That is done once, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-fast test-browser test-packaging test-attack test-outside screenshots test-unit test-integration test-timescale test-histories test-faults test-network e2e soak check format bench bench-live bench-size bench-outage bench-workers bench-takeover bench-profile plots demo clean

$(READY): pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Truetape needs Python 3.11 or newer; say which with: make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	UV_PROJECT_ENVIRONMENT=$(VENV) $(BIN)/uv sync --frozen --inexact --quiet --compile-bytecode
	@$(BIN)/python -m compileall -q src
	@touch $@

run: $(READY)            ## everything embedded, with a demo exchange trading
	$(BIN)/truetape serve --demo

demo: $(READY)           ## the story of an outage, in a minute
	$(BIN)/truetape demo

test: check test-unit test-integration test-timescale test-histories   ## the whole suite
	$(MAKE) --jobs=2 --output-sync=target test-outside test-network  # each of them waits a lot

check: $(READY)          ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-fast: test-unit     ## the developer's lane

test-unit: $(READY)      ## no server
	$(BIN)/pytest tests/unit

test-integration: $(READY)   ## embedded PostgreSQL and Valkey
	$(BIN)/pytest tests/integration -n 4 -rs

TIMESCALE := TRUETAPE_TEST_SOURCE=postgresql-15 TRUETAPE_TEST_STORE=timescaledb
OLDER     := TRUETAPE_TEST_SOURCE=postgresql-17 TRUETAPE_TEST_STORE=postgresql-15
test-timescale: $(READY) ## the same on TimescaleDB, from PostgreSQL 15: all that depends on servers
	$(TIMESCALE) $(BIN)/pytest tests/timescale tests/integration -n 4 -rs

test-histories: $(READY) ## whatever can happen to a source and to us, in any order
	HISTORIES=100 $(BIN)/python tests/histories/soak.py
	$(TIMESCALE) HISTORIES=50 PROCESSES=2 $(BIN)/python tests/histories/soak.py
	$(OLDER) HISTORIES=25 PROCESSES=1 $(BIN)/python tests/histories/soak.py

soak: $(READY)           ## thousands of histories: make soak HISTORIES=10000
	HISTORIES=$(or $(HISTORIES),10000) $(BIN)/python tests/histories/soak.py

test-faults: $(READY)    ## servers, networks, disks and processes that fail under load
	$(BIN)/pytest tests/faults -n 3 -rs

# In a folder of its own: pytest keeps its usual one for whoever started it last.
test-network: $(READY)   ## hosts with a network between them that is cut, slow, and loses packets
	@folder=$$(mktemp -d) && chmod 755 $$folder && trap 'rm -rf $$folder' EXIT && \
	PYTEST_DEBUG_TEMPROOT=$$folder testbed/own_network.sh $(BIN)/pytest tests/network -n 3 -rs

e2e: $(READY)            ## a real Ponder on local chains; needs Node.js
	$(BIN)/pytest tests/e2e -rs

test-browser: $(READY)   ## the dashboard in a real browser; needs Chromium
	$(BIN)/pytest tests/browser -rs

test-packaging: $(READY) ## the wheel in an empty environment; containers, units and cron lines as far as they can be checked
	$(BIN)/pytest tests/packaging -rs

test-attack: $(READY)    ## schemathesis on every call; settings, files and Redis entries that are nonsense
	$(BIN)/pytest tests/attack -rs

test-outside: $(READY)   ## these four and test-faults, side by side: each waits a lot
	$(BIN)/pytest tests/e2e tests/browser tests/packaging tests/attack tests/faults -n 4 --dist loadfile -rs

screenshots: $(READY)    ## the pictures of README and docs, from a running demo
	$(BIN)/python -m testbed.screenshots

bench: $(READY)          ## speed as ratios; see docs/performance.md
	$(BIN)/python -m bench $(BENCH)

bench-live: $(READY)     ## from the commit in the source to the screen; see docs/performance.md
	$(BIN)/python -m bench.live $(BENCH)

bench-size: $(READY)     ## what a trade costs as the tape grows, and what answers take
	$(BIN)/python -m bench.sizes $(BENCH)

bench-outage: $(READY)   ## five hours are missing while the exchange trades on
	$(BIN)/python -m bench.outage $(BENCH)

bench-workers: $(READY)  ## one backlog, one, two and four workers
	$(BIN)/python -m bench.workers $(BENCH)

bench-profile: $(READY)  ## what the processors are spent on in a catch-up
	$(BIN)/python -m bench.profile $(BENCH)

plots: $(READY)          ## the pictures of docs/benchmarks again, from the figures beside them
	$(BIN)/python -m bench.plots

bench-takeover: $(READY) ## how long nobody leads when the leader is killed, frozen, or cut off
	testbed/own_network.sh $(BIN)/python -m bench.takeover $(BENCH)

clean:
	rm -rf $(VENV) .servers .mypy_cache .ruff_cache .pytest_cache
