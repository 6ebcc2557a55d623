"""Which kernel runs an operation: the one place where devices are told apart.

Every fast path of the package asks ``use_fast_kernels`` and gives the same numbers (within rounding) as the plain
call beside it. Setting the environment variable ``BACKBONES_FAST_KERNELS=0``, or ``set_fast_kernels(False)``, makes
every layer take the plain call.
"""

import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_enabled = os.environ.get("BACKBONES_FAST_KERNELS", "1") != "0"


def set_fast_kernels(enabled: bool) -> None:
    """Switch all fast paths on (the default) or off, for the whole process."""
    global _enabled
    _enabled = enabled


def use_fast_kernels(x: Tensor) -> bool:
    """Whether ``x`` is a float32 tensor on a CPU, outside autocast, and fast paths are switched on.

    Exported programs are meant for other runtimes, so they hold the plain operators.
    """
    return (
        _enabled
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_exporting()
    )


@cache
def onednn_beats_blas() -> bool:
    """Whether this processor multiplies float32 matrices faster through oneDNN (convolutions) than through BLAS.

    MKL takes its AVX2 path on processors that are not Intel's, where oneDNN uses AVX-512: twice as fast on AMD. The
    vendor decides rather than a measurement, so that a run can be repeated bit for bit.
    """
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "AuthenticAMD" in cpuinfo.read_text()
