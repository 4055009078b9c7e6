# Each target does all of its own set-up: a virtual environment in .venv, made once, and again when the dependencies change.
VENV ?= .venv
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python3.14; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN = $(VENV)/bin
ARGS ?=

.PHONY: help demo test suite serve lint bench clean

help:
	@echo 'make demo    orders survive a killed consumer, before your eyes'
	@echo 'make test    the whole suite, against a real server (SRQ_TEST_URL, else one of its own); ARGS goes to pytest'
	@echo 'make serve   the test project with its admin, on http://127.0.0.1:8000/'
	@echo 'make lint    ruff, mypy, import-linter, codespell'
	@echo 'make bench   what it costs, side by side with the peers; ARGS=--quick, or "--only throughput memory"'

demo: $(VENV)/.installed
	@$(BIN)/python testproject/demo.py

test: $(VENV)/.installed
	@$(MAKE) --no-print-directory suite ARGS="-n 2 $(ARGS)"

# What is in VENV already, as it is: for environments with other versions.
suite:
	$(BIN)/python -m pytest $(ARGS)
	cd testproject && $(abspath $(BIN))/python manage.py test --verbosity 0

serve: $(VENV)/.installed
	@$(BIN)/python testproject/serve.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	cd testproject && $(abspath $(BIN))/python manage.py makemigrations --check --dry-run

bench: $(VENV)/.installed
	@$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo 'No Python from 3.11 on with venv was found; say make PYTHON=/path/to/python.' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Groups need pip 25.1, newer than what many Pythons bring.
$(VENV)/.installed: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@# setuptools warns of what an editable installation means, which is no news for a newcomer.
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[hiredis,embedded,django-redis]' --group test
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@
