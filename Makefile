# Two commands matter on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3.11
VENV ?= .venv
# Processes that run tests side by side, one thread each.
JOBS ?= 2

PY := $(VENV)/bin/python
# Constraints pin what is tested; pyproject.toml states the ranges.
INSTALL := $(PY) -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# OpenMMLab's packages ask for opencv-python and opencv-python-headless at once. Both write the same module and the
# last one wins: the headless one needs no display libraries.
HEADLESS_OPENCV := $(PY) -m pip --disable-pip-version-check install --quiet --no-deps --force-reinstall \
	--constraint constraints.txt opencv-python-headless
PACKAGING := pyproject.toml constraints.txt tools/ci/install_mmcv.sh
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadgroup
TIMM_SUITE := OMP_NUM_THREADS=1 $(PY) tests/timm_suite/run.py

.DEFAULT_GOAL := help
.PHONY: help demo demo-detection demo-segmentation demo-generation lint check test timm-suite timm-suite-ci

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# Everything but the OpenMMLab packages that need compiled operators.
$(VENV)/.light: $(PACKAGING)
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	tools/ci/install_mmcv.sh light $(PY)
	$(INSTALL) --editable '.[mmpretrain,test]'
	$(HEADLESS_OPENCV)
	touch $@

# All extras, and onedl-mmcv with operators in place of the light one.
$(VENV)/.full: $(VENV)/.light
	$(INSTALL) --editable '.[mm,docs,test]' ninja psutil wheel
	$(HEADLESS_OPENCV)
	tools/ci/install_mmcv.sh ops $(PY)
	touch $@

demo: $(VENV)/.light ## train, evaluate and predict on real images in a few minutes; prints the pictures' paths
	@$(PY) tools/demo.py

demo-detection: $(VENV)/.full ## the same with boxes and masks
	@$(PY) tools/demo_dense.py detection

demo-segmentation: $(VENV)/.full ## the same with a class for every pixel
	@$(PY) tools/demo_dense.py segmentation

demo-generation: $(VENV)/.light ## train a generator of digits, draw 200 and let a classifier read them
	@$(PY) tools/demo_generation.py

lint: $(VENV)/.light ## ruff, formatting, types, the model zoo page
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) tools/model_zoo.py --check

check: lint ## lint and the fast tests that need no OpenMMLab (within three minutes)
	$(PYTEST) -m "not slow and not mm"

test: $(VENV)/.full timm-suite-ci ## everything: all packages, timm's own tests for small models, all tests
	$(PYTEST)

timm-suite: $(VENV)/.light ## timm's own model tests on every model
	$(TIMM_SUITE) all -- -n $(JOBS)

timm-suite-ci: $(VENV)/.light ## the same on the tiny and the smallest model of each family
	$(TIMM_SUITE) ci -- -n $(JOBS)
