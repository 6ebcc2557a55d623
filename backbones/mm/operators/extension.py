"""What ``mmcv._ext`` is where nothing was compiled: one function for every name that mmcv asks for.

Signatures are those of mmcv's ``ops/csrc/pytorch/pybind.cpp``: results are written into tensors that mmcv allocates.
"""

from collections.abc import Callable
from typing import NoReturn

import torch
import torchvision

from backbones.mm.operators.boxes import *  # noqa: F403
from backbones.mm.operators.deformable import *  # noqa: F403
from backbones.mm.operators.losses import *  # noqa: F403
from backbones.mm.operators.maps import *  # noqa: F403
from backbones.mm.operators.regions import *  # noqa: F403

COMPILE = (
    "CFLAGS='-O1 -g0' pip install --no-build-isolation --no-binary onedl-mmcv --force-reinstall --no-deps onedl-mmcv"
)


def get_compiler_version() -> str:
    """Where mmcv reports its compiler."""
    return f"none (operators of backbones, torch {torch.__version__}, torchvision {torchvision.__version__})"


def get_compiling_cuda_version() -> str:
    """Where mmcv reports the CUDA that it was compiled with."""
    return "not compiled"


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Any other operator: mmcv looks all of them up when it is imported, and few are ever called."""
    if name.startswith("_"):
        raise AttributeError(name)

    def missing(*args, **kwargs) -> NoReturn:
        raise NotImplementedError(
            f"mmcv's operator {name!r} (rotated, 3D, sparse, lane and some others) is not among those that backbones "
            f"has in torch. Compile mmcv's own, with a compiler and a torch below 2.12: {COMPILE}"
        )

    return missing
