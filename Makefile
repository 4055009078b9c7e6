# Each target does all of its own set-up: it makes a virtual environment in .venv, and updates it when the dependencies change.
VENV ?= .venv
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python3.14; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN = $(VENV)/bin
ARGS ?=

.PHONY: help demo test suite django-tasks services browser unfold wagtail screenshots messages serve lint docs docs-tests bench bench-tests clean

help:
	@echo 'make demo    watch orders survive a killed consumer'
	@echo 'make test    the whole suite, on a real server (SRQ_TEST_URL, else a throw-away one); ARGS goes to pytest'
	@echo 'make django-tasks     run the tests that Django has for task backends, from its source distribution, with ours (Django 6.0 or newer)'
	@echo 'make services     test srq_consume beside PostgreSQL and memcached, as the first process of a container, with large payloads (Linux)'
	@echo 'make browser test the status view in Chromium (SRQ_CHROMIUM, else from the path); make unfold: under django-unfold'
	@echo 'make wagtail test a site with Wagtail, whose search index is updated by tasks (Django 6.0 or newer)'
	@echo 'make screenshots  renew the pictures in the README, with Chromium'
	@echo 'make messages     update and compile the translations, with gettext'
	@echo 'make serve   the test project with its admin, on http://127.0.0.1:8000/'
	@echo 'make lint    ruff, mypy, import-linter, codespell, luacheck (Debian: lua-check)'
	@echo 'make docs    build the site in docs/_build/html'
	@echo 'make docs-tests   run every snippet of the site and of the README, and check the spelling (Debian: libenchant-2-2 hunspell-en-gb systemd prometheus curl)'
	@echo 'make bench   measure speed and memory, beside other queues; ARGS=--quick, or "--only throughput memory"'
	@echo 'make bench-tests  test the benchmarks: each runs, and judges its figures'

demo: $(VENV)/.installed
	@$(BIN)/python testproject/demo.py

test: $(VENV)/.installed
	@$(MAKE) --no-print-directory suite ARGS="-n 6 $(ARGS)"

# Uses VENV as it is, without installing anything: for environments with other versions.
suite:
	$(BIN)/python -m pytest $(ARGS)
	cd testproject && $(abspath $(BIN))/python manage.py test --verbosity 0

django-tasks: $(VENV)/.installed
	$(BIN)/python -m tests.tasks.django_suite

services: $(VENV)/.installed-services
	$(BIN)/python -m pytest tests/services -p no:cacheprovider $(ARGS)

browser: $(VENV)/.installed-browser
	$(BIN)/python -m pytest tests/browser --ds=tests.browser.settings -p no:cacheprovider $(ARGS)

unfold: $(VENV)/.installed-unfold
	$(BIN)/python -m pytest tests/unfold --ds=tests.unfold.settings -p no:cacheprovider $(ARGS)

wagtail: $(VENV)/.installed-wagtail
	$(BIN)/python -m pytest tests/wagtail --ds=tests.settings -p no:cacheprovider $(ARGS)

screenshots: $(VENV)/.installed-browser
	$(BIN)/python -m tests.browser.screenshots

messages: $(VENV)/.installed
	DJANGO_SETTINGS_MODULE=tests.settings $(BIN)/python -m django makemessages $(foreach po,$(wildcard django_srq/locale/*),-l $(notdir $(po))) --no-wrap --add-location file \
		--no-obsolete -i 'tests/*' -i 'testproject/*' -i 'benchmarks/*' -i '$(VENV)/*'
	for po in django_srq/locale/*/LC_MESSAGES/django.po; do msgfmt --check-format -o "$${po%.po}.mo" "$$po" || exit 1; done

serve: $(VENV)/.installed
	@$(BIN)/python testproject/serve.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	@command -v luacheck >/dev/null || { echo 'luacheck is missing; on Debian: apt install lua-check' >&2; exit 1; }
	@folder=$$(mktemp -d); for script in $$($(BIN)/python -m django_srq.operations); do \
		$(BIN)/python -m django_srq.operations $$script > $$folder/$$script.lua; done; \
		luacheck --quiet $$folder; found=$$?; rm -rf $$folder; exit $$found
	cd testproject && $(abspath $(BIN))/python manage.py makemigrations --check --dry-run

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo 'The site is docs/_build/html/index.html'

docs-tests: docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --tag spelling --builder spelling docs docs/_build/spelling
	$(BIN)/python -m pytest tests/docs -p no:cacheprovider $(ARGS)

bench: $(VENV)/.installed
	@$(BIN)/python -m benchmarks $(ARGS)

bench-tests: $(VENV)/.installed
	$(BIN)/python -m pytest tests/benchmarks -p no:cacheprovider $(ARGS)

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo 'No Python 3.11 or newer with venv was found; name one: make PYTHON=/path/to/python.' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# --group needs pip 25.1; many Pythons come with an older pip.
$(VENV)/.installed: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@# The warning of setuptools about editable installations would only confuse here.
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[hiredis,embedded,django-redis]' --group test
	@touch $@

$(VENV)/.installed-services: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group services
	@touch $@

$(VENV)/.installed-browser: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group browser
	@touch $@

$(VENV)/.installed-unfold: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group unfold
	@touch $@

$(VENV)/.installed-wagtail: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group wagtail
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@
