# make quickstart   raw text in, a checked model out, on this machine
# make test         the whole test suite, offline
# make check        style, types and the arrows between the rooms
# make clean        remove .venv and caches; data/ and runs/ stay
#
# PYTHON=python3.12 chooses the interpreter; ARGS="-k config" goes to pytest.

SHELL := /bin/bash
BIN := .venv/bin
READY := .venv/ready
RIGHT := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do $$p -c '$(RIGHT)' 2>/dev/null && echo $$p && break; done)
ARGS ?=

# An environment whose interpreter or packages are gone (moved, upgraded, half deleted) is made anew.
ifneq ($(wildcard $(READY)),)
ifneq ($(shell $(BIN)/python -c 'import pip, numpy, pydantic, yaml' 2>/dev/null && echo works),works)
$(shell rm -f $(READY))
endif
endif

.PHONY: quickstart test check clean
.DELETE_ON_ERROR:

quickstart: $(READY)
	@$(BIN)/megamodel quickstart

test: $(READY)
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 \
		$(BIN)/python -m pytest -n 2 -m "not slow and not gpu" $(ARGS)

check: $(READY)
	@echo "ruff"; $(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@echo "mypy"; $(BIN)/mypy --no-error-summary
	@echo "import arrows"; $(BIN)/lint-imports --no-logo 2>/dev/null || { $(BIN)/lint-imports; exit 1; }

# The file `ready` is written last: without it the environment was never finished and is started over.
$(READY): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c '$(RIGHT)'; then \
		echo "megamodel needs Python 3.11 or 3.12; install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 2; fi
	@if [ -e $(READY) ]; then echo "Updating .venv to pyproject.toml and constraints.txt."; else \
		echo "Making .venv with $$($(PYTHON) --version); PyTorch is large, this takes some minutes the first time."; \
		$(PYTHON) -m venv --clear .venv || { echo "Python's venv module failed (on Debian: apt install python3-venv)." >&2; exit 2; }; fi
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt setuptools
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $(READY)

clean:
	@rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './data/*' -not -path './runs/*' -prune -exec rm -rf {} +
	@echo "Removed .venv and caches; data/ and runs/ are as they were."
