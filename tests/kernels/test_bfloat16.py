"""Attention kernels in bfloat16, as layers and in autocast: nearer to float64 than, or as near as, the plain ones."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from backbones.kernels import Machine, use_fast_kernels, use_machine
from backbones.kernels import attention as attention_file
from backbones.kernels import halo as halo_file
from backbones.kernels import tiles as tiles_file
from backbones.kernels.machine import in_float32
from backbones.layers import AggregatedAttention, HaloAttention, NeighborhoodAttention, WindowAttention

LAYERS: dict[str, tuple[Callable[[], nn.Module], ModuleType]] = {
    "halo": (lambda: HaloAttention(16, 2, block_size=4, halo_size=1), halo_file),
    "neighborhood": (lambda: NeighborhoodAttention(16, 2, kernel_size=3), tiles_file),
    "aggregated": (lambda: AggregatedAttention(16, 2, sr_ratio=2, pretrain_side=8), tiles_file),
    "window": (lambda: WindowAttention(16, 2, window_size=4), attention_file),
}


def run(layer: nn.Module, x: Tensor, autocast: bool) -> list[Tensor]:
    """Output and gradients in float64; the backward pass runs inside autocast, as some training loops have it."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x)
        grads = torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])
    return [t.detach().double() for t in (y, *grads)]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_loses_no_more_than_plain(name: str, autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    make, file = LAYERS[name]
    calls = []
    monkeypatch.setattr(file, "in_float32", lambda *args: calls.append(args) or in_float32(*args))
    torch.manual_seed(0)
    layer = make()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter.bfloat16())  # so that no type rounds them
    x = torch.randn(2, 8, 12, 16).bfloat16().float()
    dtype = torch.float32 if autocast else torch.bfloat16
    with use_machine(Machine(vendor="GenuineIntel", avx512=True, bfloat16=True)):
        fast = run(layer.to(dtype), x.to(dtype), autocast)
        assert len(calls) == 1
        with use_fast_kernels(False):
            plain = run(layer, x.to(dtype), autocast)
            exact = run(layer.double(), x.double(), False)
    for found, other, wanted in zip(fast, plain, exact, strict=True):
        error, plain_error = (torch.linalg.vector_norm(t - wanted) for t in (found, other))
        assert error <= 1.1 * plain_error + 0.003 * torch.linalg.vector_norm(wanted)  # half a step of rounding


def test_a_machine_without_bfloat16_takes_the_plain_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    with use_machine(Machine(vendor="GenuineIntel", avx512=True)):
        for make, file in LAYERS.values():
            monkeypatch.setattr(file, "in_float32", None)
            assert make().bfloat16()(torch.randn(1, 8, 8, 16).bfloat16()).dtype == torch.bfloat16
