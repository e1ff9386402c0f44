PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-browser lab app dev notebooks site bench clean

demo: .venv/lab
	$(BIN)/odebc demo

# the rules for lines; then nbdev_test for each page, with a limit: what hangs ends, and is named
test: .venv/test
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	OMP_NUM_THREADS=1 $(BIN)/python tools/check_pages.py
	$(BIN)/pytest tests --ignore-glob 'tests/test_*browser.py' --numprocesses auto --maxprocesses 4 --dist worksteal

# the explorer in JupyterLab and Voilà, clicked by a real browser; screenshots in runs/screenshots;
# and the pages of the site at the widths of a phone and of a desk
test-browser: .venv/browser
	$(BIN)/pytest tests/test_browser.py tests/test_site_in_browser.py

# a working copy: playing never dirties the repository
lab: .venv/lab
	mkdir -p lab/hood && { cp -n nbs/*.ipynb nbs/*.json lab/ && cp -n nbs/hood/*.ipynb lab/hood/ || test -f lab/index.ipynb; }
	$(BIN)/jupyter lab lab/index.ipynb $(OPTIONS)

# the explorer's sliders as a page of their own, without code; kernels end a minute after
# their page was left
UNSEEN := --MappingKernelManager.cull_idle_timeout=60 --MappingKernelManager.cull_interval=20
app: .venv/lab
	$(BIN)/voila nbs/12_explore.ipynb $(UNSEEN) $(OPTIONS)

dev: .venv/test
	$(BIN)/jupyter lab nbs/index.ipynb

# export, execute, clean, and write the README from the index page
notebooks: .venv/test
	$(BIN)/python tools/export.py
	TQDM_DISABLE=1 $(BIN)/python tools/execute.py nbs/*.ipynb nbs/hood/*.ipynb
	$(BIN)/nbdev_clean
	$(BIN)/python tools/readme.py > README.md

# all pages, to be read without network: _docs/html/index.html
site: .venv/test
	$(BIN)/python tools/make_site.py

# every ratio of benchmarks/ in one table, with the machine: half an hour; RUNS=sampler for one
bench: .venv/browser
	$(BIN)/python tools/bench.py $(RUNS)

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "odebc needs Python 3.11 to 3.13, this is %d.%d; try make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv || { rm -rf .venv; false; }

.venv/lab: .venv/bin/python constraints.txt settings.ini setup.py
	@echo "installing into .venv (once, a few minutes)"
	$(PIP) 'setuptools>=77'
	$(PIP) -e '.[lab]'
	touch $@

.venv/test: .venv/lab
	$(PIP) -e '.[test]'
	touch $@

.venv/browser: .venv/test
	$(PIP) -e '.[browser]'
	(for browser in chromium chromium-browser google-chrome; do command -v $$browser && exit; done; exit 1) || { apt-get update -qq && apt-get install -qqy --no-install-recommends chromium; } || { echo "test-browser needs Chromium on the PATH: install it, on Debian by apt-get install chromium" && false; }
	touch $@

clean:
	rm -rf .venv build dist demo _docs *.egg-info
