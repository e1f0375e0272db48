# Two commands: `make train` and `make test`. Both first do what `make setup` does, once.

# Where the program runs: cpu, or also an NVIDIA GPU (cuda) or a TPU (tpu).
ACCELERATOR ?= cpu
# The Python that .venv is made from; if none is given, the first of these that is 3.11 to 3.13.
# 3.13 comes last: one package has no wheel for it yet and is compiled.
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3.12 python3.11 python3 python3.13)
# Processes that share the tests.
WORKERS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
IN_RANGE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))

# What `make test-latest` takes in the newest versions there are: these, and what they need in a version of their own.
LATEST := jax[tpu] flax optax orbax-checkpoint
UNPINNED := jax|jaxlib|libtpu|flax|optax|orbax-checkpoint|ml-dtypes|numpy|scipy
# The newest JAX wants Python 3.12. A version that pyenv has is found though it is not the one in use.
LATEST_PYTHON ?=
LATEST_PYTHONS := $(or $(LATEST_PYTHON),python3.12 python3.13 python3 \
  $(sort $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.1[23].*/bin/python)))
NEW_ENOUGH := import sys, venv, ensurepip; sys.exit(not (3, 12) <= sys.version_info < (3, 14))

.PHONY: help setup train test test-latest test-slow lint format clean

help:
	@echo 'make train      pre-train a language model on the corpus inside the package (minutes on two cores)'
	@echo 'make test       lint and every test'
	@echo 'make test-latest  every test on the newest JAX, Flax, Optax and Orbax, in .venv-latest; LATEST_PYTHON=path'
	@echo 'make setup      only the set-up that both begin with; ACCELERATOR=cpu|cuda|tpu, PYTHON=path'
	@echo 'make test-slow  the tests that take minutes each'
	@echo 'make lint       formatting, lint, import layers, types'
	@echo 'make format     formats the code'
	@echo 'make clean      removes .venv and caches; runs/ stays'

setup: .venv/installed-$(ACCELERATOR)

train: setup
	@$(BIN)/t5x_like train --config=configs/quickstart.py --workdir=runs/quickstart

test: setup lint
	@$(BIN)/python -m pytest -q -rs -n $(WORKERS) --dist=worksteal

test-latest: .venv-latest/installed
	@.venv-latest/bin/python -m pytest -q -rs -n $(WORKERS) --dist=worksteal

test-slow: setup .venv/installed-parity
	@$(BIN)/python -m pytest -q -rs -m slow

lint: setup
	@$(BIN)/ruff format --check --quiet . || { echo 'error: some files are not formatted; run make format' >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/mypy --no-error-summary

format: setup
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

clean:
	rm -rf .venv .venv-latest .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@for python in $(PYTHONS); do \
	  if $$python -c '$(IN_RANGE)' 2>/dev/null; then $$python -m venv --clear .venv && exit 0; fi; \
	done; \
	echo 'error: none of "$(PYTHONS)" is a Python 3.11, 3.12 or 3.13 with venv; make setup PYTHON=path names one' >&2; \
	exit 1

.venv-latest/installed: requirements.lock pyproject.toml
	@for python in $(LATEST_PYTHONS); do \
	  if $$python -c '$(NEW_ENOUGH)' 2>/dev/null; then $$python -m venv --clear .venv-latest && exit 0; fi; \
	done; \
	echo 'error: none of "$(LATEST_PYTHONS)" is a Python 3.12 or 3.13 with venv, which the newest JAX wants; make test-latest LATEST_PYTHON=path names one' >&2; \
	exit 1
	@echo 'Installing $(LATEST) in their newest versions into .venv-latest (some minutes) ...'
	@grep -vE '^($(UNPINNED))==' requirements.lock > .venv-latest/pinned.txt
	@.venv-latest/bin/python -m pip --quiet --disable-pip-version-check --no-input install \
	  --requirement .venv-latest/pinned.txt $(foreach package,$(LATEST),'$(package)')
	@.venv-latest/bin/python -m pip --quiet --disable-pip-version-check --no-input install \
	  --no-deps --no-build-isolation --editable .
	@touch $@

.venv/installed-cpu: requirements.lock pyproject.toml | .venv/bin/python
	@echo 'Installing the packages of requirements.lock into .venv (a minute or two) ...'
	@$(PIP) install --requirement requirements.lock || { \
	  echo 'error: the packages did not install; on Python 3.13 a C++ compiler is needed too (not on 3.11 and 3.12)' >&2; \
	  exit 1; }
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/installed-cuda .venv/installed-tpu: .venv/installed-%: .venv/installed-cpu
	@echo 'Installing what JAX needs for $* ...'
	@$(PIP) install --constraint requirements.lock --no-build-isolation --editable '.[$*]'
	@touch $@

# The libraries that families and adaptations are compared with.
.venv/installed-parity: .venv/installed-cpu
	@echo 'Installing torch, transformers and peft, which the slow tests compare with, into .venv ...'
	@$(PIP) install --constraint requirements.lock --no-build-isolation --editable '.[parity]'
	@touch $@

.venv/installed-%:
	@echo 'error: ACCELERATOR=$* is not known; it must be cpu, cuda or tpu' >&2; exit 1
