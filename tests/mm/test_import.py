"""What an import of `backbones.mm` brings into somebody else's project."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.mm

CODE = """
import json, sys
import {module}
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, OPTIM_WRAPPERS, OPTIM_WRAPPER_CONSTRUCTORS
registries = [DATASETS, HOOKS, METRICS, MODELS, OPTIM_WRAPPERS, OPTIM_WRAPPER_CONSTRUCTORS]
ours = [name for r in registries for name, value in r.module_dict.items() if value.__module__.startswith("backbones.")]
print(json.dumps([sorted(ours), [name for name in sys.modules if name.startswith("backbones.mm.training.")]]))
"""


def registered_by(module: str, cwd) -> tuple[list[str], list[str]]:
    code = CODE.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_adaptor_comes_without_what_trains(tmp_path):
    adaptor = ["HeadBalanceHook", "LayerDecayConstructor", "SoftMaskHook", "ZooBackbone"]
    assert registered_by("backbones.mm", tmp_path) == [adaptor, []]


def test_training_brings_both(tmp_path):
    names, modules = registered_by("backbones.mm.training", tmp_path)
    assert {"ZooBackbone", "Digits", "FiniteLossHook", "DiffusionTrainer", "FlowLoss"} < set(names) and modules
