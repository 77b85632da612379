# Two commands from a fresh clone; each sets up what it needs in .venv and does not repeat it.
#   make quickstart   the main job: train, prove and ship a tiny model, without a GPU
#   make test         every check that a change must pass
# Another Python: make test PYTHON=python3.12 (after `make clean` if .venv is there).
# Written for GNU make 3.81, which macOS has.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Both are read by pip: the second one pins what a package is built with, for pip from 25.3 on.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m pip --disable-pip-version-check

MADE := $(VENV)/.made
RUN_INSTALLED := $(VENV)/.installed-run
DEV_INSTALLED := $(VENV)/.installed-dev

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

.DEFAULT_GOAL := help
.PHONY: help quickstart test docs clean

help:
	@echo "make quickstart   train, prove and ship a tiny model on this machine"
	@echo "make test         ruff, mypy, import-linter and pytest"
	@echo "make docs         rewrite the generated pages of docs/"
	@echo "make clean        remove .venv and what the tools left behind"

quickstart: $(RUN_INSTALLED)
	$(BIN)/ftcore run profiles/quickstart.toml

# Every tool runs, whatever the one before it found; pytest is last, so that its result closes the output.
test: $(DEV_INSTALLED)
	@export PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1; \
	failed=""; \
	for tool in "ruff check ." "ruff format --check ." "mypy" "mypy examples/ftcore-acme/src examples/minigrid/record.py docs/generate.py" "lint-imports" "pytest -n logical --maxprocesses 4 --dist loadfile"; do \
		echo "== $$tool"; \
		$$tool || failed="$$failed [$$tool]"; \
	done; \
	if [ -n "$$failed" ]; then echo "make test: failed:$$failed" >&2; exit 1; fi

docs: $(DEV_INSTALLED)
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +

$(MADE):
	@command -v $(PYTHON) >/dev/null || { \
		echo "make: no $(PYTHON) on the PATH; name a Python 3.11, 3.12 or 3.13: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(PYTHON) -c '$(SUPPORTED)' || { \
		echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), but ftcore needs 3.11, 3.12 or 3.13; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(RUN_INSTALLED): $(MADE) pyproject.toml constraints.txt
	$(PIP) install --editable '.[all]'
	@touch $@

$(DEV_INSTALLED): $(MADE) pyproject.toml constraints.txt
	$(PIP) install --editable '.[dev]'
	@touch $(RUN_INSTALLED) $@
