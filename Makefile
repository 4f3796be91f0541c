# make demo     set up, make the demo's model, run the main job, print the summary
# make test     set up, run all tests; durations and a JUnit file in build/test-report
# make install  the set-up alone: .venv, from requirements-cpu.lock
# make check    lint, format, types, layers, tests
# make soak     a million simulated rollouts under a thousand faults, and ten times as much fuzzing: minutes
# make wheel    dist/*.whl
# make parity   the losses against TRL's and verl's own, in an environment that it makes: .venv-parity
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install install-trl demo test check soak lint wheel parity docs clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := models/demo
REPORT := build/test-report
RUN ?= demo-$(shell date +%Y%m%d-%H%M%S)

help:
	@sed -n 's/^# make/make/p' Makefile

install: $(STAMP)

$(STAMP): requirements-cpu.lock pyproject.toml .ci/install
	@bash .ci/install $(VENV) requirements-cpu.lock .

# made again when another model is shipped: a demo on yesterday's model says nothing about today's
$(DEMO)/train.jsonl: launch/conf/demo/model.safetensors | $(STAMP)
	@$(BIN)/prolong bootstrap --out $(DEMO)
	@touch $@

demo: $(STAMP) $(DEMO)/train.jsonl
	@$(BIN)/prolong train --recipe demo run.name=$(RUN) buffer.address=tcp://127.0.0.1:0

# Neither pip nor uv made bytecode: without it the first start of every process would compile what it imports.
# Some packages hold templates that are no Python, which is no error of ours.
$(VENV)/.compiled: $(STAMP)
	@echo "test: compiling the installed packages once (half a minute)"
	@$(BIN)/python -W ignore -m compileall -q -j 0 $(VENV)/lib > $(VENV)/compile.log 2>&1 || true
	@touch $@

# Three workers: one runs the tests that start whole processes, the others share the rest (tests/support/lanes.py).
test: $(VENV)/.compiled
	@mkdir -p $(REPORT)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --durations=25 --junitxml=$(REPORT)/junit.xml

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	@$(BIN)/lint-imports

check: lint test

# -s: what ran, what struck
soak: $(STAMP)
	@PROLONG_SOAK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s $$(grep -rl PROLONG_SOAK tests --include='test_*.py')

wheel: $(STAMP)
	@$(BIN)/python -m pip --quiet wheel --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

# TRL and what it needs, in an environment of its own: only `prolong bench race-trl` uses it
install-trl: .venv-trl/.installed

.venv-trl/.installed: bench/requirements-trl.lock .ci/install
	@bash .ci/install .venv-trl bench/requirements-trl.lock

# 1.7 GB: TRL, verl, what importing their losses needs, and prolong; nothing else uses it
parity: .venv-parity/.installed
	@OMP_NUM_THREADS=1 .venv-parity/bin/python -m pytest tests/parity

.venv-parity/.installed: tests/parity/requirements.lock pyproject.toml .ci/install
	@bash .ci/install .venv-parity tests/parity/requirements.lock .

clean:
	rm -rf $(VENV) .venv-trl .venv-parity build dist *.egg-info

# docs/config.md from common/config/sections.py
docs: $(STAMP)
	@$(BIN)/python docs/make_config.py
