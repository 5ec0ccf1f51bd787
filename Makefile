# make install: the environment .venv.   make demo: all stages on generated data.   make test: the checks for every change.
# The newest of these Pythons is used; PYTHON=/path/to/python3.12 chooses another one.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null && echo $$python && break; done)
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: install install-gpu demo test lint types tests alone test-page test-cluster test-all test-long bench config-reference

install: .venv/installed

# Pinned in constraints.txt. flash-attn is compiled, which needs nvcc and takes long; both packages need an NVIDIA GPU.
install-gpu: install
	$(BIN)/python envs/install.py flash-attn bitsandbytes

# bars on a terminal, which the profile chooses; a line per job elsewhere
demo: .venv/installed
	$(BIN)/snakemake $$(test -t 2 || echo --logger lines) --workflow-profile local --configfile config/demo.yaml
	@$(BIN)/python scripts/demo_summary.py results/demo

# Changes nothing outside this folder and the temporary one.
test: .venv/installed
	$(MAKE) --jobs 3 lint types tests
	$(MAKE) alone

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check workflow
	$(BIN)/snakemake --lint

types: .venv/installed
	$(BIN)/mypy

tests: .venv/installed
	$(PYTEST) -n 3 -m "not alone and not long and not cluster and not slurm and not browser"

# these measure time, so nothing runs beside them
alone: .venv/installed
	$(PYTEST) -m "alone and not long" -n 0

# The page of a run in headless Chromium. Installs Chromium, npm, playwright and axe-core where they are missing, the first
# two as root on Debian or Ubuntu. The page of the demo is tested too, or that of a small run if the demo was not run.
test-page: .venv/installed
	command -v chromium || command -v google-chrome || { apt-get -qq update && apt-get -qq install --yes chromium; }
	command -v npm || { apt-get -qq update && apt-get -qq install --yes npm; }
	$(BIN)/python -c "import playwright" || $(BIN)/python envs/install.py --editable ".[test,page-test]"
	test -f .venv/axe/node_modules/axe-core/axe.min.js || npm install --silent --no-save --prefix .venv/axe axe-core@4.14.1
	$(PYTEST) -m browser -n 0 tests/page

# What happens on clusters: trainings of several processes, kills, full disks, and a SLURM on this machine. Needs root on
# Debian or Ubuntu: installs packages if they are missing, and writes to /etc/slurm.
test-cluster: .venv/installed
	$(PYTEST) -m "cluster and not long"
	$(PYTEST) -m slurm -n 0

# Everything; the long tests alone take about an hour on two cores.
test-all: test test-page test-cluster test-long

test-long: .venv/installed
	$(PYTEST) -m long -n 0 -s

# Writes results/bench/{bench.json,bench.md,bench.png}; docs/performance.md explains the figures.
bench: .venv/installed
	$(BIN)/python tests/benchmark

# config/README.md is written from the schema
config-reference: .venv/installed
	$(BIN)/python scripts/config_reference.py

.venv/installed: pyproject.toml constraints.txt envs/install.py
	$(if $(PYTHON),,$(error found no Python 3.11, 3.12 or 3.13 with venv: give its path as PYTHON=...))
	$(PYTHON) -m venv .venv
	$(BIN)/python envs/install.py --editable ".[test]"
	touch $@
