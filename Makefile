# Everything a user or a contributor types. Each target sets up what it needs, once.
SHELL := /bin/bash
.DEFAULT_GOAL := help

HOST = 127.0.0.1
PORT = 8000
CONFIG = serve_config.yaml
# The first of these that there is; any Python 3.11 or 3.12 will do: make serve PYTHON=/path/to/python3.12
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin
# What is compiled when the package is installed.
NATIVE := $(wildcard deployments/asr/native/*.[ch])

# Ray reports usage to its makers unless told not to; serving speech is nobody's business but the operator's.
export RAY_USAGE_STATS_ENABLED ?= 0
# What HAProxy answers has OpenAI's form, too, where it is used: RAY_SERVE_ENABLE_HA_PROXY=1 make serve
export RAY_SERVE_HAPROXY_BINARY_PATH ?= $(CURDIR)/.venv/bin/qwen3-asr-haproxy
# What serve.env says holds unless the environment says otherwise.
$(foreach line,$(shell grep ^RAY_ serve.env),$(eval export $(subst =, ?= ,$(line))))

.PHONY: help setup serve baseline null-engine test test-gpu lint format train evaluate train-aligner evaluate-aligner
.PHONY: asr-ci fuzz hostile fast-path soak report audit clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/.dev  ## install everything, for developing

serve: .venv/.serve  ## serve the model of CONFIG (serve_config.yaml) on HOST:PORT
	@mkdir -p .build
	@sed -e 's/^  host: .*/  host: $(HOST)/' -e 's/^  port: .*/  port: $(PORT)/' $(CONFIG) > .build/serve_config.$(PORT).yaml
	@$(BIN)/python -m deployments.check .build/serve_config.$(PORT).yaml
	@exec $(BIN)/python -m deployments.run .build/serve_config.$(PORT).yaml

baseline: .venv/.serve  ## serve it with plain generate, to compare with
	@mkdir -p .build
	@sed -e 's/^  host: .*/  host: $(HOST)/' -e 's/^  port: .*/  port: $(PORT)/' \
		-e 's/deployments.app:build/benchmarks.baseline:build/' $(CONFIG) > .build/baseline_config.yaml
	@PYTHONPATH=. exec $(BIN)/serve run .build/baseline_config.yaml

null-engine: .venv/.serve  ## serve it with an engine that answers at once, to measure everything else
	@mkdir -p .build
	@sed -e 's/^  host: .*/  host: $(HOST)/' -e 's/^  port: .*/  port: $(PORT)/' \
		-e 's/deployments.app:build/benchmarks.fast_path.null_engine:build/' $(CONFIG) > .build/null_engine_config.yaml
	@PYTHONPATH=. exec $(BIN)/serve run .build/null_engine_config.yaml

test: .venv/.dev  ## run all tests
	$(BIN)/python -m pytest

test-gpu: .venv/.dev  ## run the tests that need a GPU
	$(BIN)/python -m pytest -m gpu tests/unit

lint: .venv/.dev  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev  ## put the code into its canonical form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train: .venv/.dev  ## train the demo checkpoint again (hours; needs espeak-ng and flite)
	$(BIN)/python -m benchmarks.demo_checkpoint.train

evaluate: .venv/.dev  ## measure the demo checkpoint's error rates (needs espeak-ng and flite)
	$(BIN)/python -m benchmarks.demo_checkpoint.evaluate

train-aligner: .venv/.dev  ## train the demo aligner again (hours; needs espeak-ng and flite)
	$(BIN)/python -m benchmarks.demo_aligner.train

evaluate-aligner: .venv/.dev  ## measure how far the demo aligner's word times are off (needs espeak-ng and flite)
	$(BIN)/python -m benchmarks.demo_aligner.evaluate

asr-ci: .venv/.dev  ## error rates and speed of the service on the demo recordings
	$(BIN)/python -m benchmarks.asr_ci

fuzz: .venv/.dev  ## send the service 5,000 requests that no client should
	$(BIN)/python -m benchmarks.fuzz

hostile: .venv/.dev  ## send the service 200 recordings that make recognisers invent text
	$(BIN)/python -m benchmarks.hostile

fast-path: .venv/.dev  ## what the service costs beside the model
	$(BIN)/python -m benchmarks.fast_path

soak: .venv/.dev  ## half an hour of load at 80 % of capacity
	$(BIN)/python -m benchmarks.soak

report: .venv/.dev  ## put the measured figures into docs/
	$(BIN)/python -m benchmarks.report

audit: .build/audit/bin/pip-audit  ## look for known vulnerabilities in the pinned packages (needs the network)
	@$< --vulnerability-service osv --requirement constraints.txt --no-deps --disable-pip --progress-spinner off \
		2> .build/audit/log; code=$$?; \
	if grep -q ConnectionError .build/audit/log; then echo "OSV, the database, cannot be reached: nothing was audited." >&2; \
	else cat .build/audit/log >&2; fi; exit $$code

clean:  ## remove what the other targets made, but no training data
	rm -rf .venv .build build .pytest_cache .mypy_cache .ruff_cache *.egg-info deployments/asr/native/*.so

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; name one: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

# In an environment of its own: what looks at the packages is none of them.
.build/audit/bin/pip-audit: | .venv/bin/python
	$(BIN)/python -m venv .build/audit
	.build/audit/bin/pip install --quiet 'pip-audit>=2.10,<3'

# Stamps: an unchanged checkout is set up without touching the network.
.venv/.serve: pyproject.toml constraints.txt $(NATIVE) | .venv/bin/python
	@rm -f deployments/asr/native/*.so
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/.dev: pyproject.toml constraints.txt $(NATIVE) | .venv/bin/python
	@rm -f deployments/asr/native/*.so
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ .venv/.serve
