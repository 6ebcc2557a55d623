#!/usr/bin/env bash
# Usage: test_compiled.sh PYTHON VENV
#
# Compiles mmcv's operators, 5 to 8 minutes on two cores, and compares the project's own with them. Needs a C++ compiler,
# and torch 2.11, the last one whose headers take the C++17 that mmcv is compiled as.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1 venv=$2

version=$(sed -n 's/^onedl-mmcv==//p' constraints.txt)
pip() { "$venv/bin/python" -m pip --disable-pip-version-check install --quiet "$@"; }
if [ ! -e "$venv/.compiled" ]; then
    "$python" -m venv "$venv"
    pip 'torch==2.11.0' 'torchvision==0.26.0' 'setuptools>=80,<82' ninja wheel psutil
    # Without optimiser effort and debug information it takes half the time; hiding a GPU keeps nvcc out of it. pip's
    # cache knows neither the torch a wheel was compiled against nor whether it has operators.
    PATH="$PWD/$venv/bin:$PATH" CFLAGS='-O1 -g0' MAX_JOBS=${MAX_JOBS:-$(nproc)} CUDA_VISIBLE_DEVICES='' \
        pip --no-build-isolation --no-cache-dir --no-binary onedl-mmcv "onedl-mmcv==$version"
    pip --editable '.[mm,test]'
    pip --no-deps --force-reinstall opencv-python-headless
    touch "$venv/.compiled"
fi
BACKBONES_MM_OPERATORS=compiled "$venv/bin/python" -m pytest tests/mm/operators -m compiled
