# `make help` lists the targets. Everything runs from .venv, which the first target that needs it creates.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# The oldest Airflow that is supported, for the tests that do not need processes of their own.
VENV32 := .venv-airflow32
STAMP32 := $(VENV32)/.installed
# What drives a browser, for those who run these tests.
STAMP_UI := $(VENV)/.installed-ui
STAMP_DOCS := $(VENV)/.installed-docs
STAMP_DIST := $(VENV)/.installed-dist
# Warehouses whose drivers the development environment does without. MariaDB and its client library come from the
# system: apt-get install mariadb-server libmariadb-dev pkg-config.
VENV_WAREHOUSES := .venv-warehouses
STAMP_WAREHOUSES := $(VENV_WAREHOUSES)/.installed
# Without them the environment goes without MySQL's driver, and its tests.
MYSQL := $(shell PATH="$$PATH:/usr/sbin" command -v mariadbd >/dev/null && pkg-config --exists libmariadb 2>/dev/null && echo mysql)
ENGINES := $(MYSQL) clickhouse iceberg delta parquet
COMMA := ,
# FAB's auth manager, which Airflow does without by default.
STAMP_FAB := .venv-fab/.installed
# Those that need older libraries than the others.
STAMP_SNOWFLAKE := .venv-snowflake/.installed
STAMP_BIGQUERY := .venv-bigquery/.installed
# The stand-in for BigQuery, which the tests start, needs Python 3.13.
STAMP_LOCAL_BIGQUERY := .venv-local-bigquery/.installed
# pyenv has it where no shim leads to.
PYTHON313 := $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13*/bin/python) 3.13)
# The tests of one file share what is costly to start. Those of real processes need the machine for themselves.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile
# uv from the PATH, else one of our own in .uv.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

# Airflow starts a process per task: without byte code each of them would compile its imports again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo ui bench test test-warehouses test-engines test-sql test-fab test-ui soak screenshots test-airflow32 lint docs dist lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.uv/bin/uv:
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed as python3; this is " + sys.version)'
	@python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv

# $(call install,ENVIRONMENT,CONSTRAINTS,DEPENDENCY GROUP)
define install
	@echo "Installing Airflow and this package into $(1) ..."
	@test -x $(1)/bin/python || $(UV) venv --quiet --python python3 $(1)
	@VIRTUAL_ENV=$(1) $(UV) pip install --quiet --constraints $(2) --group $(3) --editable '.[duckdb,postgres,sqlite]'
	@touch $@
endef

$(STAMP): pyproject.toml setup.cfg constraints.txt | $(filter .uv/bin/uv,$(UV))
	$(call install,$(VENV),constraints.txt,dev)

$(STAMP32): pyproject.toml setup.cfg constraints-airflow-3.2.txt | $(filter .uv/bin/uv,$(UV))
	$(call install,$(VENV32),constraints-airflow-3.2.txt,airflow32)

$(STAMP_UI): $(STAMP)
	$(call install,$(VENV),constraints.txt,ui)

$(STAMP_DOCS): $(STAMP)
	$(call install,$(VENV),constraints.txt,docs)

$(STAMP_DIST): $(STAMP)
	$(call install,$(VENV),constraints.txt,dist)
$(STAMP_WAREHOUSES): pyproject.toml setup.cfg constraints-warehouses.txt | $(filter .uv/bin/uv,$(UV))
	$(call install,$(VENV_WAREHOUSES),constraints-warehouses.txt,warehouses)
	@VIRTUAL_ENV=$(VENV_WAREHOUSES) $(UV) pip install --quiet --constraints constraints-warehouses.txt --editable '.[$(MYSQL:%=%$(COMMA))clickhouse,iceberg,delta,databricks,mssql]'


$(STAMP_FAB): pyproject.toml setup.cfg constraints.txt | $(filter .uv/bin/uv,$(UV))
	$(call install,.venv-fab,constraints.txt,fab)

$(STAMP_SNOWFLAKE): pyproject.toml setup.cfg constraints-snowflake.txt | $(filter .uv/bin/uv,$(UV))
	$(call install,.venv-snowflake,constraints-snowflake.txt,snowflake)
	@VIRTUAL_ENV=.venv-snowflake $(UV) pip install --quiet --constraints constraints-snowflake.txt --editable '.[snowflake]'

$(STAMP_BIGQUERY): pyproject.toml setup.cfg constraints-bigquery.txt | $(filter .uv/bin/uv,$(UV))
	$(call install,.venv-bigquery,constraints-bigquery.txt,bigquery)
	@VIRTUAL_ENV=.venv-bigquery $(UV) pip install --quiet --constraints constraints-bigquery.txt --editable '.[bigquery]'

$(STAMP_LOCAL_BIGQUERY): constraints-local-bigquery.txt | $(filter .uv/bin/uv,$(UV))
	@test -x .venv-local-bigquery/bin/python || $(UV) venv --quiet --python $(PYTHON313) .venv-local-bigquery
	@VIRTUAL_ENV=.venv-local-bigquery $(UV) pip install --quiet --no-deps --requirements constraints-local-bigquery.txt
	@touch $@

# API=embedded speaks the other one of Plaud's APIs.
demo: $(STAMP) ## Run real Airflow on embedded parts: recordings in, transcripts out
	@$(PY) -m demo

ui: $(STAMP) ## Leave real Airflow and the emulator running, to click through
	@$(PY) -m demo.ui

test: $(STAMP) ## Run all tests
	@$(PY) -m pytest $(PARALLEL) --ignore tests/integration
	@$(PY) -m pytest tests/integration

test-warehouses: $(STAMP_WAREHOUSES) $(STAMP_SNOWFLAKE) $(STAMP_BIGQUERY) $(STAMP_LOCAL_BIGQUERY) ## Run the warehouses' contract on MariaDB, ClickHouse, Iceberg, Delta, Parquet, and stand-ins for Snowflake and BigQuery
	@PLAUD_TEST_WAREHOUSES="mysql clickhouse iceberg delta parquet" $(VENV_WAREHOUSES)/bin/python -m pytest tests/warehouses
	@PLAUD_TEST_WAREHOUSES="iceberg-rest iceberg-s3 iceberg-glue delta-s3 parquet-s3" $(VENV_WAREHOUSES)/bin/python -m pytest -m "not large" \
		-k "not lost and not two_writers" tests/warehouses/test_contract.py
	@PLAUD_TEST_WAREHOUSES=mysql $(VENV_WAREHOUSES)/bin/python -m pytest -k mysql tests/unit/ledger
	@PLAUD_TEST_WAREHOUSES=snowflake .venv-snowflake/bin/python -m pytest tests/warehouses
	@PLAUD_TEST_WAREHOUSES=bigquery .venv-bigquery/bin/python -m pytest tests/warehouses

# What of them needs neither minutes nor a stand-in, so in CI.
test-engines: $(STAMP_WAREHOUSES) ## Run the contract on ClickHouse, Iceberg, Delta, Parquet, and MariaDB if it is installed
	@PLAUD_TEST_WAREHOUSES="$(ENGINES)" $(VENV_WAREHOUSES)/bin/python -m pytest $(PARALLEL) -m "not large" \
		--ignore tests/warehouses/test_sql.py tests/warehouses

test-fab: $(STAMP_FAB) ## Run the tests of the pages with FAB's roles
	@.venv-fab/bin/python -m pytest tests/fab/pages.py

# Without a warehouse and in seconds, so in CI; the contract on stand-ins is not, before it has been measured there.
test-sql: $(STAMP_SNOWFLAKE) ## Compare what is sent to Snowflake, Redshift and Databricks, statement by statement
	@.venv-snowflake/bin/python -m pytest tests/warehouses/test_sql.py

test-ui: $(STAMP_UI) ## Run the tests in a browser (Chromium)
	@$(PY) -m pytest tests/ui

# Minutes of kills and of a Plaud in trouble, so not in `make test`. PLAUD_SOAK_FILES=1000 takes a thousand recordings,
# PLAUD_TROUBLE_MINUTES=60 an hour of trouble, PLAUD_SOAK_ARRIVALS=50 fewer new recordings than 500.
soak: $(STAMP) ## Let DAGs share a ledger while processes are killed, and an archive while Plaud is in trouble, and recordings arrive
	@$(PY) -m pytest -s tests/soak

screenshots: $(STAMP_UI) ## Run them, and take the screenshots of docs/images anew
	@$(PY) -m pytest tests/ui --screenshots

# What takes nothing of Airflow, or only its connections and storages (which others try as well), is the same there: all
# other libraries have the same versions in both constraint files. Hours of trouble are long.
WITHOUT_AIRFLOW := api benchmarks database emulator ledger quota recordings trouble warehouse

test-airflow32: $(STAMP32) ## Run the unit and DAG tests on Airflow 3.2
	@$(VENV32)/bin/python -m pytest $(PARALLEL) $(WITHOUT_AIRFLOW:%=--ignore tests/unit/%) tests/unit tests/dags

lint: $(STAMP) ## Check style, types and import rules
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-cache

# An hour and a half on two cores; `make bench FULL=--full` takes 20 minutes more.
bench: $(STAMP) ## Measure ours against what one would write today
	@$(PY) -m benchmarks $(FULL)

docs: $(STAMP_DOCS) ## Build the documentation into docs/_build
	@$(VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build
	@echo "Open $(CURDIR)/docs/_build/index.html"

dist: $(STAMP_DIST) ## Build the wheel and the source distribution into dist, and check both
	@rm -rf build dist *.egg-info
	@$(PY) -m build --no-isolation >/dev/null
	@$(PY) -m twine check --strict dist/*
	@UV=$(UV) $(PY) -m pytest tests/unit/test_packaging.py tests/dist

COMPILE = $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --extra duckdb --extra postgres --extra sqlite \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml

lock: | $(filter .uv/bin/uv,$(UV)) ## Pin today's versions of everything, for each Airflow
	@$(COMPILE) --group dev --group dist --group docs --group fab --group ui -o constraints.txt
	@$(COMPILE) --group airflow32 -o constraints-airflow-3.2.txt
	@$(COMPILE) --extra mysql --extra clickhouse --extra iceberg --extra delta --extra databricks --extra mssql --group warehouses -o constraints-warehouses.txt
	@$(COMPILE) --extra snowflake --group snowflake -o constraints-snowflake.txt
	@$(COMPILE) --extra bigquery --group bigquery -o constraints-bigquery.txt
	@$(UV) pip compile --quiet --upgrade --python-version 3.13 --group local-bigquery --override tests/warehouses/local-bigquery-override.txt \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links -o constraints-local-bigquery.txt

clean: ## Remove what the targets created
	@rm -rf docs/_build $(VENV) $(VENV32) $(VENV_WAREHOUSES) .venv-fab .venv-snowflake .venv-bigquery .venv-local-bigquery .uv .demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
