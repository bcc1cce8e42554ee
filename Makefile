# Needs Python 3.11 (with venv), git and make; everything else is installed into .venv from requirements.lock.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo study test test-slow environment lock clean

# The first of these that is Python 3.11; `make PYTHON=/path/to/python3.11 …` names another.
PYTHON ?= $(shell for name in python3.11 python3 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$name && break; done)
# Without compiled modules each of the many processes would compile PyTorch's sources first, ten seconds and more.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
# Stamps are named after what they were made from and written last: a changed lock makes a new environment, a changed
# pyproject.toml only installs the package anew, and an interrupted installation leaves no stamp.
LOCKED := .venv/locked-$(shell sha256sum requirements.lock | cut -c1-16)
PACKAGE := .venv/package-$(shell cat requirements.lock pyproject.toml | sha256sum | cut -c1-16)
# One training per device: `udaseg devices` counts them. With 0 devices the cores alone are the limit.
SNAKEMAKE = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/snakemake --cores all --resources gpu=$$($(BIN)/udaseg devices)

demo: environment
	$(SNAKEMAKE)

study: environment
	$(SNAKEMAKE) --config study=toytown

test: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow" -n logical --dist worksteal --durations 20

test-slow: environment
	$(BIN)/python -m pytest -m slow -n logical --dist worksteal --durations 30

environment: $(PACKAGE)

$(PACKAGE): | $(LOCKED)
	$(PIP) --no-deps --no-build-isolation --editable .
	rm -f .venv/package-*
	touch $@

# Hashes are checked for everything; nothing is built but what is published as source only, and that with the locked
# setuptools: no build fetches anything. Python compiles what is imported, which is a small part, when it is imported.
SOURCE_ONLY := connection-pool,antlr4-python3-runtime
$(LOCKED):
	@$(if $(PYTHON),,echo "Python 3.11 was not found. Debian 12: apt-get install python3.11 python3.11-venv;" \
		"elsewhere: make PYTHON=/path/to/python3.11 …" >&2; exit 1)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "$(PYTHON) is not Python 3.11, the one version this project is tested on." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments. Debian 12: apt-get install python3.11-venv" >&2; exit 1; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock > .venv/setuptools.lock
	$(PIP) --require-hashes --only-binary :all: -r .venv/setuptools.lock
	@echo "installing requirements.lock into .venv (about 3.4 GB to fetch; minutes)"
	$(PIP) --require-hashes --no-build-isolation --use-pep517 --only-binary :all: \
		--no-binary $(SOURCE_ONLY) --no-compile -r requirements.lock
	touch $@

# Writes requirements.lock from pyproject.toml: the one way in which it is made. Versions in it stay unless
# pyproject.toml asks for others; remove the file first to move every version.
lock:
	tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$(PYTHON) -m venv "$$tools"; \
	"$$tools/bin/python" -m pip install --quiet --disable-pip-version-check uv==0.13.9; \
	"$$tools/bin/uv" pip compile pyproject.toml --extra dev --generate-hashes --no-annotate --no-emit-index-url \
		--python-version 3.11 -o requirements.lock --quiet

# What the tools leave behind. Runs, data and reports are results: they stay.
clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
