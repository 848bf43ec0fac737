# `make run` and `make test` need Python 3.11 or newer and make; all else is installed into .venv.
# Another interpreter: make run PYTHON=python3.13

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
PYTEST_FLAGS ?= -n 2
BOOKS = $(shell sed -n 's/^  \([^ :]*\):.*/\1/p' reports/books.yaml)

PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
INPUTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test lint families fuzz mutants format golden schema reports pins bench clean

help: ## list these targets
	@sed -n 's/^\([a-z][a-z]*\):.*## /  make \1\t/p' Makefile

run: $(VENV)/.installed-base ## install archcalc and count the parameters of Kimi K2.5
	@$(BIN)/archcalc params specs/k25.yaml

test: lint ## run every check that CI runs; the tests come last
	@echo "== pytest"
	@$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/.installed-dev ## the checks that run no code of ours: style, types, imports, spelling
	@echo "== ruff check"
	@$(BIN)/ruff check
	@echo "== ruff format"
	@$(BIN)/ruff format --check
	@echo "== mypy"
	@$(BIN)/mypy
	@echo "== import-linter"
	@$(BIN)/lint-imports --no-logo
	@echo "== codespell"
	@$(BIN)/codespell

families: $(VENV)/.installed-dev ## every key of small configs edited: what is imported against the public classes on the meta device
	@$(BIN)/python -m pytest $(PYTEST_FLAGS) tests/families

fuzz: $(VENV)/.installed-dev ## N cases of SEED (make fuzz N=150000 SEED=7) at every command; stopped, it goes on where it was; failures lie in .fuzz
	@$(BIN)/python -m tests.fuzz --seed $(or $(SEED),2) --cases $(or $(N),2000)

mutants: $(VENV)/.installed-mutation ## a sample of N=400 small changes to the code that counts: which of them do the unit tests notice? (an hour)
	@$(BIN)/python -m tests.mutation --mutants $(or $(N),400) --seed $(or $(SEED),1) $(MUTANTS_FLAGS)

format: $(VENV)/.installed-dev ## rewrite the code as ruff wants it
	@$(BIN)/ruff check --fix --exit-zero --quiet
	@$(BIN)/ruff format

golden: $(VENV)/.installed-dev ## rewrite the golden files; read the diff before you commit it
	@$(BIN)/python -m pytest -k golden --snapshot-update

schema: $(VENV)/.installed-base ## rewrite schema/ and docs/reference/ from the types, docs/glossary.md from the quantities, the tables of the other pages
	@$(BIN)/python -m archcalc.documents.keys
	@$(BIN)/python -m archcalc.documents.glossary >docs/glossary.md
	@$(BIN)/python -m tests.serving.published_logs
	@$(BIN)/python -m tests.training.goldens --write
	@$(BIN)/python -m tests.training.legal.page
	@$(BIN)/python -m tests.families.pages
	@$(BIN)/python -m tests.limits_page

reports: $(VENV)/.installed-dev ## rewrite the reports that reports/books.yaml names, with a cross-check where one is not current
	@$(BIN)/archcalc report $(BOOKS) --dir reports

pins: $(VENV)/.created ## rewrite action/requirements.txt, hashes and all, from constraints.txt; asks the package index
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	$(BIN)/python -m venv "$$tools" && "$$tools/bin/python" -m pip -qq install -c constraints.txt uv && \
	echo hatchling | "$$tools/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--only-binary :all: --no-annotate --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make pins" -c constraints.txt pyproject.toml - -o action/requirements.txt

bench: $(VENV)/.installed-base ## start-up time against the import floor, and peak memory
	@$(BIN)/python tests/bench_startup.py

clean: ## remove .venv, caches and builds
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# Stamps: a second run installs nothing. pip goes through the configured index; the pins keep it to what CI tested.
$(VENV)/.created:
	@python=; for p in $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3); do \
		if "$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python=$$p; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "make: no Python 3.11 or newer with venv and ensurepip found; name one with PYTHON=..." >&2; exit 1; fi; \
	echo "== creating $(VENV) with $$python"; "$$python" -m venv $(VENV)
	@touch $@

$(VENV)/.installed-base: $(INPUTS) | $(VENV)/.created
	@echo "== installing archcalc into $(VENV)"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(INPUTS) | $(VENV)/.created
	@echo "== installing archcalc and the tools of its tests into $(VENV) (some minutes the first time)"
	@$(PIP) install -c constraints.txt -e '.[dev,all]'
	@touch $@ $(VENV)/.installed-base

$(VENV)/.installed-mutation: $(INPUTS) | $(VENV)/.installed-dev
	@echo "== installing the tools of the mutants into $(VENV)"
	@$(PIP) install -c constraints.txt -e '.[dev,all,mutation]'
	@touch $@ $(VENV)/.installed-base $(VENV)/.installed-dev
