# `make help` lists the targets. Everything runs from .venv, which the first target that needs it creates.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# uv from the PATH, else one of our own in .uv.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

# Airflow starts a process per task: without byte code each of them would compile its imports again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test lint lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.uv/bin/uv:
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed as python3; this is " + sys.version)'
	@python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv

$(STAMP): pyproject.toml setup.cfg constraints.txt | $(filter .uv/bin/uv,$(UV))
	@echo "Installing Airflow and this package into $(VENV) ..."
	@test -x $(PY) || $(UV) venv --quiet --python python3 $(VENV)
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --constraints constraints.txt --group dev --editable '.[duckdb]'
	@touch $@

demo: $(STAMP) ## Run real Airflow on embedded parts: recordings in, transcripts out
	@$(PY) -m demo

test: $(STAMP) ## Run all tests
	@$(PY) -m pytest

lint: $(STAMP) ## Check style, types and import rules
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-cache

lock: | $(filter .uv/bin/uv,$(UV)) ## Pin today's versions of everything in constraints.txt
	@$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --group dev \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml -o constraints.txt

clean: ## Remove what the targets created
	@rm -rf $(VENV) .uv .demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
