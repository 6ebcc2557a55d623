"""Tools that count multiply-accumulates agree with ``backbones complexity`` on what they can know.

On the smallest published model of each family, where norms, which every tool weighs in its own way, are a hundredth.
"""

import logging
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import ptflops
import pytest
import thop
import timm
import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import backbones
from backbones.cli.complexity import count
from backbones.layers import DeformableConv
from backbones.metafiles import BEYOND_BACKBONES, load_metafiles

pytestmark = pytest.mark.clients

NAMES = [name for name in backbones.list_models() if not name.startswith("test_")]
# As metafiles say, which is checked; building all models would take a while.
PARAMS = {entry.arch: entry.params for entry in load_metafiles() if entry.task not in BEYOND_BACKBONES}
FAMILIES = sorted({timm.models.model_entrypoint(name).__module__.rpartition(".")[2] for name in NAMES})


@cache
def smallest(family: str) -> str:
    names = (name for name in NAMES if timm.models.model_entrypoint(name).__module__.endswith(f".{family}"))
    return min(names, key=PARAMS.__getitem__)


def model_and_inputs(family: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    model = backbones.create_model(smallest(family)).eval()
    size = model.pretrained_cfg["input_size"]
    if hasattr(model, "example_inputs"):
        return model, model.example_inputs(1, *size[1:])
    return model, (torch.zeros(1, *size),)


@cache
def own_count(family: str) -> dict[str, int]:
    model = backbones.create_model(smallest(family), device="meta")
    return count(model, model.pretrained_cfg["input_size"]).operators


class Attention(TorchFunctionMode):
    """Counts products of attention as they are computed: NAT's tiles of queries share keys, which costs more."""

    macs = 0

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is nn.functional.scaled_dot_product_attention:
            q, k, v = args[:3]
            self.macs += q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        return function(*args, **kwargs or {})


@cache
def computed_attention(family: str) -> int:
    model, args = model_and_inputs(family)
    with torch.no_grad(), Attention() as attention:
        model(*args)
    return attention.macs


def count_deformable(layer: DeformableConv, args: tuple[Tensor, ...], y: Tensor) -> int:
    """A tool that counts by type of module has to be told about modules with a weight of their own."""
    return y[..., 0].numel() * layer.weight.numel()


def count_deformable_for_thop(layer: DeformableConv, args: tuple[Tensor, ...], y: Tensor) -> None:
    layer.total_ops += count_deformable(layer, args, y)


def count_deformable_for_ptflops(layer: DeformableConv, args: tuple[Tensor, ...], y: Tensor) -> None:
    layer.__flops__ += count_deformable(layer, args, y)


def by_flop_counter(model: nn.Module, args: tuple[Tensor, ...]) -> float:
    with FlopCounterMode(display=False) as counter:
        model(*args)
    return counter.get_total_flops() / 2


def by_fvcore(model: nn.Module, args: tuple[Tensor, ...]) -> float:
    return FlopCountAnalysis(model, args).unsupported_ops_warnings(False).tracer_warnings("none").total()


def by_thop(model: nn.Module, args: tuple[Tensor, ...]) -> float:
    return thop.profile(model, args, custom_ops={DeformableConv: count_deformable_for_thop}, verbose=False)[0]


def by_ptflops(model: nn.Module, args: tuple[Tensor, ...], backend: str) -> float:
    names = model.forward.__code__.co_varnames[1:]
    return ptflops.get_model_complexity_info(
        model,
        tuple(args[0].shape[1:]),
        input_constructor=lambda shape: dict(zip(names, args)),
        as_strings=False,
        print_per_layer_stat=False,
        verbose=False,
        backend=backend,
        custom_modules_hooks={DeformableConv: count_deformable_for_ptflops},
        ignore_modules=[nn.GELU, nn.ReLU],  # an addition each
    )[0]


LAYERS = {"conv", "linear"}
PRODUCTS = {"matmul", "bmm", "einsum"}
NORMS = {"layer_norm", "batch_norm", "group_norm"}
# tool -> (what it does, the operators that it knows). None knows the CPU's fused attention, but some see its products
# where it runs as such, or deformable convolution.
TOOLS: dict[str, tuple[Callable[..., Any], set[str]]] = {
    "FlopCounterMode": (by_flop_counter, LAYERS | PRODUCTS | {"baddbmm"}),
    "fvcore": (by_fvcore, LAYERS | PRODUCTS | NORMS),
    "thop": (by_thop, LAYERS | NORMS),
    "ptflops": (partial(by_ptflops, backend="pytorch"), LAYERS | PRODUCTS | NORMS),
    "ptflops aten": (partial(by_ptflops, backend="aten"), LAYERS | PRODUCTS | NORMS),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("family", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in FAMILIES])
def test_tools_agree(family: str, tool: str) -> None:
    counts, known = TOOLS[tool]
    expected = sum(macs for operator, macs in own_count(family).items() if operator in known)
    either = [pytest.approx(macs, rel=0.02) for macs in (expected, expected + computed_attention(family))]
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled):
            found = counts(*model_and_inputs(family))
        assert found in either, f"{'with' if enabled else 'without'} gradients"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("fvcore"), "disabled", True)
