# Start with `make demo` or `make test`. Each target creates `.venv` if it does not exist.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow check docs schema clean

demo: $(INSTALLED)
	$(BIN)/runner launch specs/tiny_mmre.yaml

# Only two processes, as each of them imports torch, transformers and MLflow. The tests of a file stay in one process, as
# they share expensive fixtures. Files keep the order of the folders, as files with few tests are not the fast ones.
test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 15

# Three processes, also on two cores: these tests wait for servers and Ray for half of their time.
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 15 \
		--ignore tests/execute/test_ray_cluster.py
	# Ray reads on import whether a cluster requires tokens, so these tests need their own process.
	$(BIN)/python -m pytest -m slow tests/execute/test_ray_cluster.py

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Builds site/, which needs no network. Serve it with `python -m http.server --directory site` or any web server; opened
# from disk, everything but the search works.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

schema: $(INSTALLED)
	$(BIN)/runner schema -o specs/schema.json
	$(BIN)/runner schema --dataset -o specs/dataset_schema.json

# The stamp file is written last, so that an interrupted installation is repeated.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache site
