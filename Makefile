# Every target sets up what it needs from nothing: a virtual environment in .venv with msa in it. It is installed
# again only when pyproject.toml or constraints.txt change. VENV=PATH uses another one, PYTHON=... another Python.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.msa-$(shell cat pyproject.toml constraints.txt | cksum | tr -d ' ')
export PYTHONPATH := $(CURDIR)$(addprefix :,$(PYTHONPATH))

.PHONY: help setup demo test check bench docs
.DEFAULT_GOAL := help

help:
	@echo 'make demo    make data, extract it, train on it, show the table: under three minutes once installed'
	@echo 'make test    all tests; no network, no GPU, no data needed. ARGS="-k store" runs some'
	@echo 'make check   ruff, mypy, and the documentation against the code'
	@echo 'make docs    write the tables of README.md and docs/commands.md from the code'
	@echo 'make bench   figures about speed, each beside its counterpart, then kills, faults and poison: an hour'
	@echo 'make setup   only the environment: .venv, or VENV=PATH'

setup: $(INSTALLED)

$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'msa needs Python 3.11 or newer: name one, such as PYTHON=python3.12'; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	PYTHONPATH= $(PY) -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@rm -f $(VENV)/.msa-* && touch $@

demo: setup
	MSA_HOME=demo/home $(PY) -m msa.cli demo demo
	@echo '  (msa is $(VENV)/bin/msa: source $(VENV)/bin/activate)'

test: setup
	$(PY) -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile $(ARGS)

check: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest tests/test_docs.py

bench: setup
	$(PY) -m benchmarks

docs: setup
	$(PY) docs/generate.py
