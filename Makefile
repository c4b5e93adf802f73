PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint types tests slow gpu format clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	mkdir -p .venv/typings && ln -sfn ../../experiments .venv/typings/metarl_experiments
	touch $@

demo: install  ## MAML on sine regression: a table, two figures and TensorBoard logs
	$(BIN)/python experiments/sine.py --training.iterations 20000

test: lint types tests

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/pyright

tests: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

slow: install  ## what takes minutes
	$(BIN)/python -m pytest -m slow

gpu: install  ## what needs a CUDA device
	$(BIN)/python -m pytest -m gpu

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
