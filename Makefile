# Each target makes the environments that it needs from Python 3.11 to 3.13 and a package registry.
.PHONY: demo test test-full test-oldest lint format docs bench notebooks lock clean
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLDEST := $(VENV)-oldest
INSTALL := -m pip --disable-pip-version-check --no-input install -qq
PYTEST := -m pytest -q -n 2 --dist loadfile
# constraints.txt is made with 3.11, so it comes first. TensorFlow does not support 3.14 yet.
PYTHON ?=
PYTHONS := $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3 python)
FIT := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

demo: $(STAMP)
	@$(BIN)/tlfeatures demo

# pytest comes last in each target, so that its summary is printed last.
test: lint
	@$(BIN)/python $(PYTEST) -m "not slow" $(ARGS)

# The tests marked slow: killed processes, thousands of damaged files, every network, notebooks, benchmarks, JAX, PyTorch.
test-full: $(STAMP)-full
	@$(BIN)/python $(PYTEST) -m slow $(ARGS)

# The lowest versions that pyproject.toml allows.
test-oldest: $(OLDEST)/.installed
	@$(OLDEST)/bin/python $(PYTEST) -m "not slow" $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/codespell
	@$(BIN)/mypy --no-error-summary

# The site in docs/_build/html: warnings are errors, links within the site are checked, and the code of the guides is run.
# `make docs ARGS="-b linkcheck docs docs/_build/links"` checks addresses of other sites.
docs: $(STAMP)-docs
	@$(BIN)/python -m sphinx -q -W --keep-going $(if $(ARGS),$(ARGS),docs docs/_build/html)
	@$(BIN)/python docs/check_links.py docs/_build/html
	@$(BIN)/python -m pytest -q tests/test_guides.py

format: $(STAMP)
	@$(BIN)/ruff check --quiet --fix
	@$(BIN)/ruff format --quiet

$(STAMP): pyproject.toml constraints.txt
	@$(call make_venv,$(VENV))
	@echo "Installing the pinned packages into $(VENV): 1 to 3 minutes, 3.5 GB."
	@$(BIN)/python $(INSTALL) --constraint constraints.txt setuptools
	@$(BIN)/python $(INSTALL) --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $@

$(STAMP)-docs: $(STAMP)
	@echo "Installing Sphinx and its extensions into $(VENV)."
	@$(BIN)/python $(INSTALL) --constraint constraints.txt --no-build-isolation --editable '.[dev,docs]'
	@touch $@

$(STAMP)-full: $(STAMP)
	@echo "Installing all extras into $(VENV)."
	@$(BIN)/python $(INSTALL) --constraint constraints.txt --no-build-isolation --editable '.[dev,test-full]'
	@touch $@

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	@$(call make_venv,$(OLDEST))
	@echo "Installing the oldest supported packages into $(OLDEST): 2 to 4 minutes, 3 GB."
	@$(OLDEST)/bin/python $(INSTALL) --constraint constraints-oldest.txt setuptools
	@$(OLDEST)/bin/python $(INSTALL) --constraint constraints-oldest.txt --no-build-isolation --editable '.[test]'
	@touch $@

# Every benchmark, about two hours on an otherwise idle machine; then the tables of docs/ from their figures.
bench: $(STAMP)
	@$(BIN)/python benchmarks/run_all.py $(ARGS)
	@$(BIN)/python benchmarks/tables.py

# Execute the notebooks and store their outputs in them: `make notebooks`, or `make notebooks ARGS=signs` for one.
notebooks: $(STAMP)
	@$(BIN)/python notebooks/execute.py $(ARGS)

# Write the newest versions that pyproject.toml allows to constraints.txt, resolved in a new environment.
lock:
	@$(call make_venv,$(VENV)-lock)
	@$(VENV)-lock/bin/python -m pip install -qq --upgrade pip setuptools
	@$(VENV)-lock/bin/python -m pip install -qq --no-build-isolation --editable '.[dev,test-full,docs]'
	@{ echo "# Made by 'make lock' with Python $$($(VENV)-lock/bin/python -c 'import platform; print(platform.python_version())')."; \
	  $(VENV)-lock/bin/python -m pip freeze --all --exclude-editable --exclude pip --exclude wheel \
	  | sed 's/+cpu$$//'; } > constraints.tmp
	@mv constraints.tmp constraints.txt
	@rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-lock $(OLDEST) docs/_build build dist *.egg-info .pytest_cache .ruff_cache

# Make an environment at $(1) unless there is one that works.
define make_venv
$(1)/bin/python -m pip --version >/dev/null 2>&1 && exit; \
for python in $(PYTHONS); do \
  if "$$python" -c '$(FIT)' >/dev/null 2>&1; then "$$python" -m venv --clear $(1); exit; fi; \
done; \
echo "tlfeatures needs Python 3.11, 3.12 or 3.13 with its venv module; none of these is one: $(subst ",,$(PYTHONS))." >&2; \
echo "Install one (Debian: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.11" >&2; \
exit 1
endef
