#!/usr/bin/env bash
# Usage: test_compiled.sh PYTHON VENV
#
# Compiles mmcv's operators, 5 to 8 minutes on two cores, records what they give, and compares the project's own with it
# and with the values in the repository. Needs a C++ compiler, and torch 2.11, the last one whose headers take the C++17
# that mmcv is compiled as.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1 venv=$2

version=$(sed -n 's/^onedl-mmcv==//p' constraints.txt)
install() { "$venv/bin/python" -m pip --disable-pip-version-check install --quiet "$@"; }
if [ ! -e "$venv/.compiled" ]; then
    "$python" -m venv "$venv"
    install torch==2.11.0 torchvision==0.26.0 'setuptools>=80,<82' ninja wheel psutil
    # Without optimiser effort and debug information it takes half the time; hiding a GPU keeps nvcc out of it. pip's
    # cache knows neither the torch that a wheel was compiled against nor whether it has operators.
    PATH="$PWD/$venv/bin:$PATH" CFLAGS='-O1 -g0' MAX_JOBS=${MAX_JOBS:-$(nproc)} CUDA_VISIBLE_DEVICES='' \
        install --no-build-isolation --no-deps --no-cache-dir --no-binary onedl-mmcv "onedl-mmcv==$version"
    install --editable '.[mm,test]'
    install --no-deps --force-reinstall opencv-python-headless
    touch "$venv/.compiled"
fi

BACKBONES_MM_OPERATORS=compiled "$venv/bin/python" tests/mm/operator_cases.py "$venv/compiled.npz"
export BACKBONES_MM_OPERATORS=torch
"$venv/bin/python" -m pytest --quiet tests/mm/test_operators*.py
OPERATOR_VALUES=$venv/compiled.npz "$venv/bin/python" -m pytest --quiet tests/mm/test_operators.py tests/mm/test_operators_models.py
