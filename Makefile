# Two commands to begin with: `make demo` and `make test`. Each makes `.venv` if it is not there.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow check docs schema clean

demo: $(INSTALLED)
	$(BIN)/runner launch specs/tiny_mmre.yaml

# Two processes, as each imports torch, transformers and MLflow anew. A file's tests stay together, as they share what
# is dear to make; files in the order of the folders, as those of few tests are not the quick ones.
test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 15

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 15 \
		--ignore tests/execute/test_ray_cluster.py
	# Ray reads when it is imported whether a cluster asks for tokens: these tests want a process of their own.
	$(BIN)/python -m pytest -m slow tests/execute/test_ray_cluster.py

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Into site/, which needs no network: `python -m http.server --directory site`, or any web server. Opened from the disk,
# all but its search works.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

schema: $(INSTALLED)
	$(BIN)/runner schema -o specs/schema.json
	$(BIN)/runner schema --dataset -o specs/dataset_schema.json

# The stamp is written last, so that an interrupted installation is done again.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache site
