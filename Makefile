# Each target sets up what it needs: Python 3.11 or newer and make are all that must be there.
PYTHON ?= python3
PINNERSAGE_DATA_DIR ?= data
PORT ?= 3000
REPORTS_PORT ?= 3001

override export PINNERSAGE_DATA_DIR := $(abspath $(PINNERSAGE_DATA_DIR))
override export DAGSTER_HOME := $(PINNERSAGE_DATA_DIR)/dagster_home

RUN := .venv/bin/python -m pinnersage_assets
EXTRAS ?= dev

.PHONY: help install demo dev serve backfill erase sql test test-all bench lint clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

# One stamp for what is installed: made anew only when a requirement changes. Modules are compiled as they are first
# imported: to compile all that is installed takes a quarter of the time, and most of it is never used.
INSTALLED := .venv/installed-$(EXTRAS)
$(INSTALLED): pyproject.toml constraints.txt
	@test -x .venv/bin/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "'$(PYTHON)' is not Python 3.11 or newer. Name one that is: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing into .venv (a minute or so) ..."
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv \
		|| { echo "'$(PYTHON) -m venv' failed: Debian and Ubuntu need the package python3-venv" >&2; exit 1; }
	@.venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

install: $(INSTALLED)  ## Installing alone; what else needs it does it too

HOME_FILE := $(DAGSTER_HOME)/dagster.yaml
$(HOME_FILE): data/dagster_home/dagster.yaml
	@mkdir -p $(DAGSTER_HOME)
	@test "$<" -ef "$@" || cp "$<" "$@"

demo: export PINNERSAGE_SOURCE = simulated
demo: $(INSTALLED) $(HOME_FILE)  ## 100 simulated days, and the whole lineage for the last three
	@$(RUN) demo $(if $(AGAIN),--again)

# The UI's pages cannot open files, so the pages of reports/ are served beside it, and no longer than it. Interrupts reach
# Dagster itself; the shell waits for it to end.
dev: $(INSTALLED) $(HOME_FILE)  ## The Dagster UI on http://localhost:3000 (or PORT=...), pages on 3001 (REPORTS_PORT=...)
	@.venv/bin/python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT)))' 2>/dev/null \
		|| { echo "Port $(PORT) is taken. Is another make dev running? For another port: make dev PORT=..." >&2; exit 1; }
	@mkdir -p $(PINNERSAGE_DATA_DIR)/reports; \
	.venv/bin/python -m http.server $(REPORTS_PORT) --bind 127.0.0.1 --directory $(PINNERSAGE_DATA_DIR)/reports \
		>/dev/null 2>&1 & reports=$$!; \
	trap 'kill $$reports 2>/dev/null' EXIT; trap : INT; trap 'exit 143' TERM; \
	sleep 1; kill -0 $$reports 2>/dev/null \
		|| echo "Port $(REPORTS_PORT) is taken: links to pages of reports/ will not open (try REPORTS_PORT=...)" >&2; \
	.venv/bin/dagster dev --workspace workspace.yaml --host 127.0.0.1 --port $(PORT)

serve: $(INSTALLED)  ## Recommendations over HTTP on http://localhost:8080, updated by events as they come
	@exec $(RUN) serve

backfill: $(INSTALLED) $(HOME_FILE)  ## All for FROM=YYYY-MM-DD TO=YYYY-MM-DD; AGAIN=1 redoes days; or STALE=1, what is stale
	@test -n "$(STALE)" -o -n "$(FROM)" -a -n "$(TO)" \
		|| { echo "say which days: make backfill FROM=2026-04-08 TO=2026-04-10, or STALE=1" >&2; exit 2; }
	@$(RUN) backfill $(if $(FROM),--from $(FROM)) $(if $(TO),--to $(TO)) $(if $(AGAIN),--again) $(if $(STALE),--stale)

erase: $(INSTALLED) $(HOME_FILE)  ## Erase users from every table, file and store: USERS="17 42", or NAMES="alice"
	@test -n "$(USERS)$(NAMES)" || { echo 'say whom: make erase USERS="17 42", or NAMES="alice bob"' >&2; exit 2; }
	@$(RUN) erase $(USERS) $(foreach name,$(NAMES),--original '$(name)')

sql: $(INSTALLED)  ## A prompt for SQL on the published copy
	@$(RUN) sql

# As many workers as a small machine has processors: with more threads each they would wait for each other.
test test-all: export OPENBLAS_NUM_THREADS = 1
# Tests write thousands of small files, and sync most: in memory, where there is room, nobody waits for a disk.
test test-all: export PYTEST_DEBUG_TEMPROOT = $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 8000000 {print "/dev/shm"}')

# SlipCover costs a tenth of the time; coverage.py, on Python 3.11, nearly half.
FLOOR := 92
COVERED = .venv/bin/python -m slipcover --branch --source pinnersage_assets --fail-under $(FLOOR) --json --out .venv/coverage.json

test: $(INSTALLED)  ## The tests that gate a change
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/ty check
	@$(COVERED) -m pytest -n 2 -m "not slow" || { code=$$?; test $$code -ne 2 \
		|| echo "Less than $(FLOOR) % of the package's lines and branches are tested: see .venv/coverage.json" >&2; exit $$code; }

test-all:  ## All tests, those of Ray included
	@$(MAKE) --no-print-directory EXTRAS=dev,ray install
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/ty check
	@.venv/bin/python -m pytest -n 2

bench:  ## The benchmarks
	@$(MAKE) --no-print-directory EXTRAS=dev,bench install
	@for script in benchmarks/*.py; do echo "== $$script"; .venv/bin/python $$script || exit 1; done

clean:  ## Remove the environment; data stays
	rm -rf .venv
