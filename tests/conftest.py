"""Fixtures that several files share."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import backbones  # noqa: F401  (the modules that the fixture patches)
from backbones.layers import set_fast_kernels

with contextlib.suppress(ImportError):  # before any test imports MMPretrain by itself, see backbones/mm/compat.py
    import backbones.mm  # noqa: F401

# processes that tests start find the package as pytest does, installed or not
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")])
)


@pytest.fixture
def fast_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take every fast path that this machine can run, whatever its vendor and number of threads."""
    for name, module in list(sys.modules.items()):
        if name.startswith("backbones."):
            for choice in ("onednn_beats_blas", "convolutions_use_onednn"):
                if hasattr(module, choice):
                    monkeypatch.setattr(module, choice, lambda *args: torch.backends.mkldnn.is_available())
    set_fast_kernels(True)
    yield
    set_fast_kernels(True)
