"""What runs a model: PyTorch in several ways, and runtimes that load an exported file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import backbones
from backbones.deploy import FORMATS
from backbones.deploy.quantization import TOOLS, require_quantizer
from backbones.kernels import current_machine, use_fast_kernels


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One way to run a model.

    Attributes:
        make: (model, dtype, inputs) -> what computes its outputs; None for a runtime that loads a file.
        format: Of the file, a key of ``backbones.deploy.FORMATS``.
        int8: Whether layers compute in eight bits, over the ranges that they have for the benchmark's own inputs.
        trains: Whether gradients come through it.
        dtypes: In which it runs.
        autocast: Whether bfloat16 is autocast, on any CPU; otherwise it needs the CPU's kernels.
        anywhere: Whether it runs on other devices than a CPU, too.
    """

    make: Callable[[nn.Module, torch.dtype, tuple], Callable[..., Any]] | None = None
    format: str | None = None
    int8: bool = False
    trains: bool = False
    dtypes: tuple[str, ...] = ("float32",)
    autocast: bool = True
    anywhere: bool = False

    @property
    def packages(self) -> list[str]:
        """What runs it, and what writes its eight bits, beside PyTorch."""
        if self.format is None:
            return []
        return [*list(FORMATS[self.format].packages)[-1:], *[TOOLS[self.format]] * self.int8]


def _plain(model: nn.Module) -> Callable[..., Any]:
    """The model by PyTorch's own calls; gradients take the way of the outputs that they come from."""

    def run(*inputs: Any) -> Any:
        with use_fast_kernels(False):
            return model(*inputs)

    return run


_BOTH = ("float32", "bfloat16")
RUNTIMES = {
    "eager": Runtime(make=lambda model, *_: model, trains=True, dtypes=_BOTH, anywhere=True),
    "plain": Runtime(make=lambda model, *_: _plain(model), trains=True, dtypes=_BOTH, anywhere=True),
    "optimized": Runtime(
        make=lambda model, dtype, _: backbones.optimize(model, dtype=dtype), dtypes=_BOTH, autocast=False
    ),
    "optimized-int8": Runtime(
        make=lambda model, _, inputs: backbones.optimize(model, dtype=torch.int8, calibration=[inputs]), int8=True
    ),
    "compile": Runtime(make=lambda model, *_: torch.compile(model), trains=True, dtypes=_BOTH, anywhere=True),
    "compile-freezing": Runtime(
        make=lambda model, *_: torch.compile(model, options={"freezing": True}), dtypes=_BOTH, anywhere=True
    ),
    "onnxruntime": Runtime(format="onnx"),
    "onnxruntime-int8": Runtime(format="onnx", int8=True),
    "openvino": Runtime(format="openvino"),  # which backbones.deploy tells to compute in float32
    "openvino-int8": Runtime(format="openvino", int8=True),
}


def check_runtime(name: str, dtype: str, device: str) -> None:
    """Check that a runtime is installed and can do what is asked.

    Raises:
        ValueError: If it cannot, or a package is missing, with the command that installs it.
    """
    runtime = RUNTIMES[name]
    if dtype not in runtime.dtypes:
        raise ValueError(f"{name} runs in {' or '.join(runtime.dtypes)}, not in {dtype}: leave out one of the two")
    if dtype == "bfloat16" and not (runtime.autocast or current_machine().bfloat16):
        raise ValueError(
            f"{name} runs in bfloat16 where the CPU has AVX512-BF16 or AMX, not here: leave out one of the two"
        )
    if torch.device(device).type != "cpu" and not runtime.anywhere:
        raise ValueError(f"{name} runs on a CPU, not on {device}: leave out one of the two")
    if runtime.format:
        try:
            FORMATS[runtime.format].require()
            if runtime.int8:
                require_quantizer(runtime.format)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
