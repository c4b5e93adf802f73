PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint types tests slow gpu docs compat format clean

install: .venv/installed

# pip is quiet while it works; what has arrived is counted instead.
.venv/installed: pyproject.toml constraints.txt
	@echo "Setting up .venv: Python packages, of which torch is the largest."
	@echo "1.8 GB on the disk with torch's CPU build, several times as much with its CUDA build; some"
	@echo "minutes on a fast line."
	$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]' & pip=$$!; \
	trap 'kill $$pip 2> /dev/null; exit 130' INT TERM; \
	while sleep 15 && kill -0 $$pip 2> /dev/null; do \
		test "$(CI)" || echo "  pip downloads and installs; .venv has $$(du -sm .venv | cut -f1) MB"; \
	done; wait $$pip
	mkdir -p .venv/typings && ln -sfn ../../experiments .venv/typings/metarl_experiments
	touch $@

demo: install  ## MAML on sine regression: a table, two figures and TensorBoard logs
	@echo "Training MAML on sine regression: 20 000 iterations, about half a minute on a core."
	$(BIN)/python experiments/sine.py --training.iterations 20000
	@echo
	@echo "The environment: . .venv/bin/activate. Then, for example:"
	@echo "  metarl play latest                      # the fits of three test tasks, in this terminal"
	@echo "  metarl train sine --algorithm reptile   # another algorithm; metarl compare RUN RUN"
	@echo "  metarl train navigation2d               # a policy that adapts to a goal; metarl list: all"
	@echo "  tensorboard --logdir runs               # the curves of all runs; metarl runs lists them"

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

docs: .venv/docs  ## the manual as a site: build/docs/index.html
	@echo "Building the manual: two to three minutes, in silence."
	$(BIN)/python docs/_ext/settings_tables.py
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
	@echo "The manual: build/docs/index.html"

.venv/docs: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

compat: install  ## the lowest and the newest versions of pyproject.toml, in fresh environments
	$(BIN)/python -m benchmarks.compatibility

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
