# Two commands matter on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3.11
VENV ?= .venv
# Processes that run tests side by side, one thread each.
JOBS ?= 2

# Bytecode is made when a module is first imported: of all that is installed it would take minutes. Where images forbid
# to write it, each process compiles what it imports anew: `import backbones` takes 14 s instead of 5.
unexport PYTHONDONTWRITEBYTECODE
PIP := -m pip --disable-pip-version-check install --quiet --no-compile
PY := $(VENV)/bin/python
# Constraints pin what is tested; pyproject.toml states the ranges.
INSTALL := $(PY) $(PIP) --constraint constraints.txt
# OpenMMLab's packages ask for opencv-python and opencv-python-headless at once. Both write the same module and the
# last one wins: the headless one needs no display libraries.
HEADLESS_OPENCV := $(PIP) --no-deps --force-reinstall --constraint constraints.txt opencv-python-headless
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadgroup
TIMM_SUITE := OMP_NUM_THREADS=1 $(PY) tests/timm_suite/run.py

.DEFAULT_GOAL := help
.PHONY: help demo demo-detection demo-segmentation demo-generation lint check test test-newest test-compiled timm-suite \
	timm-suite-ci site browser

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# What trains: all of OpenMMLab. Nothing is compiled.
$(VENV)/.mm: pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[mm]'
	$(PY) $(HEADLESS_OPENCV)
	touch $@

# And what tests.
$(VENV)/.all: $(VENV)/.mm
	$(INSTALL) --editable '.[mm,docs,test]'
	touch $@

demo: $(VENV)/.mm ## train, evaluate and predict on real images in a few minutes; prints the pictures' paths
	@$(PY) tools/demo.py

demo-detection: $(VENV)/.mm ## the same with boxes and masks
	@$(PY) tools/demo_dense.py detection

demo-segmentation: $(VENV)/.mm ## the same with a class for every pixel
	@$(PY) tools/demo_dense.py segmentation

demo-generation: $(VENV)/.all ## train a generator of digits, draw 200 and let a classifier read them
	@$(PY) tools/demo_generation.py

lint: $(VENV)/.all ## ruff, formatting, types, the pages of models and layers
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) tools/model_zoo.py --check
	$(PY) tools/layers_page.py --check

check: lint ## lint and the fast tests that need no other libraries (within three minutes)
	$(PYTEST) -m "not slow and not mm and not clients"

test: $(VENV)/.all browser timm-suite-ci ## everything: all packages, timm's own tests for small models, all tests
	$(PYTEST)

site: $(VENV)/.all ## build the site into site/; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

browser: ## Chromium for the tests of the site, installed where it is missing (Debian, Ubuntu; as root)
	tools/ci/install_browser.sh

test-newest: ## the same with the newest torch, torchvision and timm that pyproject.toml allows, in .venv-newest
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python $(PIP) --upgrade --upgrade-strategy eager --editable '.[mm,docs,test]'
	.venv-newest/bin/python $(HEADLESS_OPENCV)
	touch .venv-newest/.mm .venv-newest/.all
	$(MAKE) VENV=.venv-newest test

test-compiled: ## compile mmcv's operators, for minutes and in .venv-compiled, and compare those of this package
	tools/ci/test_compiled.sh $(PYTHON) .venv-compiled

timm-suite: $(VENV)/.all ## timm's own model tests on every model
	$(TIMM_SUITE) all -- -n $(JOBS)

timm-suite-ci: $(VENV)/.all ## the same on the tiny and the smallest model of each family
	$(TIMM_SUITE) ci -- -n $(JOBS)
