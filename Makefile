# `make demo` and `make test` need Python 3.11 to 3.13, this file and a package registry; nothing else.
.PHONY: demo test lint format lock clean
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# The constraints are made with 3.11, so it comes first. 3.14 waits for TensorFlow.
PYTHON ?=
PYTHONS := $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3 python)
FIT := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

demo: $(STAMP)
	@$(BIN)/tlfeatures demo

# pytest comes last: its closing lines are the last thing printed.
test: lint
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check

format: $(STAMP)
	@$(BIN)/ruff check --quiet --fix
	@$(BIN)/ruff format --quiet

$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { $(call make_venv,$(VENV)); }
	@echo "Installing the pinned packages into $(VENV): 1 to 3 minutes, 3.5 GB."
	@$(PIP) install -qq --constraint constraints.txt setuptools
	@$(PIP) install -qq --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $(STAMP)

# New versions for everything: resolve anew in a venv of its own and write down what came.
lock:
	@$(call make_venv,$(VENV)-lock)
	@$(VENV)-lock/bin/python -m pip install -qq --upgrade pip setuptools
	@$(VENV)-lock/bin/python -m pip install -qq --no-build-isolation --editable '.[dev]'
	@{ echo "# Made by 'make lock' with Python $$($(VENV)-lock/bin/python -c 'import platform; print(platform.python_version())')."; \
	  $(VENV)-lock/bin/python -m pip freeze --all --exclude-editable --exclude pip --exclude wheel; } > constraints.tmp
	@mv constraints.tmp constraints.txt
	@rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-lock build dist *.egg-info .pytest_cache .ruff_cache

define make_venv
for python in $(PYTHONS); do \
  if "$$python" -c '$(FIT)' >/dev/null 2>&1; then "$$python" -m venv --clear $(1); exit; fi; \
done; \
echo "tlfeatures needs Python 3.11, 3.12 or 3.13 with its venv module; none of these is one: $(subst ",,$(PYTHONS))." >&2; \
echo "Install one (Debian: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.11" >&2; \
exit 1
endef
