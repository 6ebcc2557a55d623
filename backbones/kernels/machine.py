"""What decides which kernel is fast: the machine as a value, and the switch of all fast paths.

Every choice of this room is a function of ``current_machine()`` and of the tensors at hand, so that a test can run the
branches of any CPU by putting another record in its place (``use_machine``).
"""

import os
import platform
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A CPU and how PyTorch was built for it.

    Attributes:
        vendor: As the CPU names it, "AuthenticAMD" or "GenuineIntel"; "" where it is not known.
        avx512: Whether PyTorch's kernels use AVX-512.
        split_avx512: Whether the CPU runs each of its instructions in two halves, so that AVX2 is as fast: AMD's Zen 4.
        mkl: Whether PyTorch's BLAS is MKL.
        onednn: Whether PyTorch was built with oneDNN.
        bfloat16: Whether oneDNN has bfloat16 kernels for this CPU; there are none below AVX-512.
        threads: Threads of an operator; None for what PyTorch is set to.
    """

    vendor: str = ""
    avx512: bool = False
    split_avx512: bool = False
    mkl: bool = True
    onednn: bool = True
    bfloat16: bool = False
    threads: int | None = None

    @classmethod
    def found(cls) -> "Machine":
        """The one that this process runs on."""
        vendor, family = _vendor_and_family()
        avx512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
        return cls(
            vendor=vendor,
            avx512=avx512,
            split_avx512=avx512 and vendor == "AuthenticAMD" and family == 25,  # Zen 3 has no AVX-512
            mkl=torch.backends.mkl.is_available(),
            onednn=torch.backends.mkldnn.is_available(),
            bfloat16=torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        )

    @property
    def blas_lags(self) -> bool:
        """Whether BLAS leaves instructions of the CPU unused: MKL does on those that are not Intel's.

        The vendor decides rather than a measurement, so that a run can be repeated bit for bit.
        """
        return self.onednn and self.mkl and self.vendor == "AuthenticAMD"


def _vendor_and_family() -> tuple[str, int]:
    """As the CPU names them; "" and 0 where they are not known."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else platform.processor()  # which holds them on Windows
    vendor = next((vendor for vendor in ("AuthenticAMD", "GenuineIntel") if vendor in text), "")
    family = re.search(r"(?:cpu family\s*:|Family) (\d+)", text)
    return vendor, int(family[1]) if family else 0


HERE = Machine.found()
_machine = HERE
_enabled = os.environ.get("BACKBONES_FAST_KERNELS", "1") != "0"


class _Recorders(threading.local):
    """Pairs of a dispatch and a function mode, of a thread, that are to see the fast paths."""

    count = 0


_recorders = _Recorders()


def current_machine() -> Machine:
    """The record that choices are made by."""
    return _machine


@contextmanager
def use_machine(record: Machine) -> Iterator[None]:
    """Choose kernels as on another machine. Kernels that this one lacks are replaced by the plain operator."""
    global _machine
    before, _machine = _machine, record
    threads = torch.get_num_threads()
    torch.set_num_threads(record.threads or threads)  # PyTorch picks kernels by it, too
    try:
        yield
    finally:
        _machine = before
        torch.set_num_threads(threads)


def set_fast_kernels(enabled: bool) -> None:
    """Switch all fast paths on (the default) or off, for the whole process; ``BACKBONES_FAST_KERNELS=0`` does, too."""
    global _enabled
    _enabled = enabled


@contextmanager
def use_fast_kernels(enabled: bool) -> Iterator[None]:
    """The switch for a while, in the whole process; afterwards it is as before."""
    before = _enabled
    set_fast_kernels(enabled)
    try:
        yield
    finally:
        set_fast_kernels(before)


def has_fast_kernels() -> bool:
    """Whether fast paths are switched on."""
    return _enabled


@contextmanager
def recording() -> Iterator[None]:
    """Let a dispatch and a function mode, entered inside, see the fast paths instead of the plain operators."""
    _recorders.count += 1
    try:
        yield
    finally:
        _recorders.count -= 1


def is_observed() -> bool:
    """Whether someone looks at operators, so that only the plain ones will do, or fast paths are switched off.

    That is a compiler or tracer, a dispatch or function mode, a transform of ``torch.func``, forward-mode
    differentiation. It comes before any look at a size: a traced program serves all sizes.
    """
    if torch.compiler.is_compiling() or not _enabled or torch.jit.is_tracing():
        return True
    return bool(
        torch._C._len_torch_dispatch_stack() > _recorders.count
        or _len_function_modes() > _recorders.count
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def _len_function_modes() -> int:
    """Function modes but for the one of ``torch.set_default_device``, which looks at factories alone."""
    count = torch._C._len_torch_function_stack()
    if count == 0:
        return 0
    modes = [torch._C._get_function_stack_at(i) for i in range(count)]
    return sum(type(mode) is not torch.utils._device.DeviceContext for mode in modes)


def serves(*tensors: Tensor) -> bool:
    """Whether there are fast kernels for these tensors: entries of a CPU, as they are and not a subclass of tensors."""
    return all(type(t) is Tensor and t.device.type == "cpu" and t.numel() > 0 for t in tensors)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Type in which a convolution or a linear layer of ``x`` computes: autocast's where that is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def computes_in(x: Tensor, *dtypes: torch.dtype) -> bool:
    """Whether ``x`` and what layers compute from it are of these types, and the machine has kernels for them."""
    found = {x.dtype, compute_dtype(x)}
    return found <= set(dtypes) and (torch.bfloat16 not in found or _machine.bfloat16)


def use_fast_path(*tensors: Tensor) -> bool:
    """Whether an operation with a fast path of its own, in float32 and bfloat16, takes it for these tensors."""
    return not is_observed() and serves(*tensors) and computes_in(tensors[0], torch.float32, torch.bfloat16)


def in_float32(fn: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``fn`` of these tensors, bfloat16 as float32 and autocast off; the result is of the type it would have been."""
    dtype = compute_dtype(tensors[0])
    with torch.autocast("cpu", enabled=False):
        return fn(*(t.float() if t.dtype == torch.bfloat16 else t for t in tensors)).to(dtype)
