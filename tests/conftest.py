"""Fixtures that several files share."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backbones.kernels import Machine, set_fast_kernels, use_machine
from tests.machines import MACHINES

with contextlib.suppress(ImportError):  # before any test imports MMPretrain by itself, see backbones/mm/compat.py
    import backbones.mm  # noqa: F401

# processes that tests start find the package as pytest does, installed or not
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")])
)

# what OpenVINO goes by: otherwise it forks the process for every event that it reports to its makers
os.environ["CI"] = "true"


@pytest.fixture
def fast_kernels() -> Iterator[None]:
    """Take the fast paths of an AMD CPU with AVX-512, whatever this one is; the switch is on again afterwards."""
    with use_machine(MACHINES["AMD with AVX-512"]):
        yield
    set_fast_kernels(True)


@pytest.fixture(params=MACHINES)
def any_machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Take the fast paths of every kind of CPU in turn."""
    with use_machine(MACHINES[request.param]):
        yield MACHINES[request.param]
    set_fast_kernels(True)
