# Every target makes what it needs: the virtual environment is built once and again when pyproject.toml changes.
PYTHON ?= python3
CONFIG ?= configs/demo.yaml
BIN := .venv/bin

.PHONY: serve chat test lint format clean

serve: .venv/installed  ## serve CONFIG (the demo model) over HTTP
	$(BIN)/gllm serve $(CONFIG)

chat: .venv/installed  ## talk to CONFIG's model in the terminal
	$(BIN)/gllm chat $(CONFIG)

test: lint  ## lint, types and every test
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"gLLM needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}: set PYTHON=...")'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@$(BIN)/python -m gllm.kernels.native.build
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@$(BIN)/python -m gllm.kernels.native.build
	@touch $@ .venv/installed
