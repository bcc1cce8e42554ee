# Needs git, make and Python 3.11, 3.12 or 3.13 with venv; everything else is installed into .venv from requirements.lock.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo study test test-slow environment python lock clean

# PYTHON is the newest supported Python that can create virtual environments; `make PYTHON=/path/to/python …` sets another.
# Links are followed, so inside an activated .venv it is the Python from which .venv was created.
USABLE := import os, sys, ensurepip, venv; (3, 11) <= sys.version_info < (3, 14) or sys.exit(1); \
	print(os.path.realpath(sys.executable))
ifndef PYTHON
PYTHON := $(shell for name in python3.13 python3.12 python3.11 python3 python $(CURDIR)/.venv/bin/python; do \
	$$name -c '$(USABLE)' 2>/dev/null && break; done)
endif
VERSION := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null))
VENV := .venv
# Without cached bytecode, each of the many processes would first compile PyTorch's sources, for ten seconds or more.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
# Stamps are named after their inputs and written last: another Python or a changed lock creates a new environment,
# a changed pyproject.toml only reinstalls the package, and an interrupted installation leaves no stamp.
LOCKED := $(VENV)/locked-$(VERSION)-$(shell sha256sum requirements.lock | cut -c1-16)
PACKAGE := $(VENV)/package-$(VERSION)-$(shell cat requirements.lock pyproject.toml | sha256sum | cut -c1-16)
# One training per device: `udaseg devices` counts them. With 0 devices only the cores limit the jobs.
SNAKEMAKE = PATH="$(abspath $(BIN)):$$PATH" $(BIN)/snakemake --cores all --resources gpu=$$($(BIN)/udaseg devices)

demo: environment
	$(SNAKEMAKE)

study: environment
	$(SNAKEMAKE) --config study=toytown

test: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers auto
	$(BIN)/python -m pytest -m "not slow" -n logical --dist worksteal --durations 20

test-slow: environment
	$(BIN)/python -m pytest -m slow -n logical --dist worksteal --durations 30

environment: $(PACKAGE)

$(PACKAGE): | $(LOCKED)
	$(PIP) --no-deps --no-build-isolation --editable .
	rm -f $(VENV)/package-*
	touch $@

# Prints PYTHON's version, or an error that says what to do if it cannot be used.
python:
	@$(if $(PYTHON),$(PYTHON) -c '$(USABLE)' >/dev/null 2>&1,false) && echo $(VERSION) || { echo \
		"$(if $(PYTHON),$(PYTHON) is not,There is no) Python 3.11, 3.12 or 3.13 that can make virtual environments." \
		"Debian, Ubuntu: apt-get install python3 python3-venv; elsewhere: make PYTHON=/path/to/python3.12 …" >&2; exit 1; }

# All hashes are checked. Only packages published as source only are built, with the locked setuptools, so no build
# downloads anything. Python compiles modules when they are imported; only a small part of them is.
SOURCE_ONLY := connection-pool,antlr4-python3-runtime
$(LOCKED):
	@$(MAKE) --no-print-directory PYTHON=$(PYTHON) python
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock > $(VENV)/setuptools.lock
	$(PIP) --require-hashes --only-binary :all: -r $(VENV)/setuptools.lock
	@echo "installing requirements.lock into $(VENV) (about 3.4 GB to fetch; minutes)"
	$(PIP) --require-hashes --no-build-isolation --use-pep517 --only-binary :all: \
		--no-binary $(SOURCE_ONLY) --no-compile -r requirements.lock
	touch $@

# Writes requirements.lock, for all three Pythons, from pyproject.toml; there is no other way to make it.
# Locked versions stay unless pyproject.toml asks for others; remove the file first to update every version.
lock: python
	tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$(PYTHON) -m venv "$$tools"; \
	"$$tools/bin/python" -m pip install --quiet --disable-pip-version-check uv==0.13.9; \
	"$$tools/bin/uv" pip compile pyproject.toml --extra dev --generate-hashes --no-annotate --no-emit-index-url \
		--universal --python-version 3.11 -o requirements.lock --quiet

# Removes what the tools leave behind. Runs, data and reports are results and stay.
clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
