"""Deformable convolution against bilinear samples taken one by one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.kernels import set_fast_kernels
from backbones.kernels.deformable import _by_torchvision
from backbones.layers import DeformableConv, DeformableMerging


def sample(image: Tensor, y: float, x: float) -> Tensor:
    """Bilinear, zero outside. image: (H, W, C) -> (C,)"""
    value = torch.zeros(image.shape[-1], dtype=image.dtype)
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
                value += (1 - abs(y - i)) * (1 - abs(x - j)) * image[i, j]
    return value


def obvious(conv: DeformableConv, x: Tensor) -> Tensor:
    offsets = F.conv2d(x.permute(0, 3, 1, 2), conv.offset.weight, conv.offset.bias, stride=2)  # (B, 8, H', W')
    out = conv.bias.expand(x.shape[0], *offsets.shape[2:], -1).clone()
    for b, i, j in torch.cartesian_prod(*map(torch.arange, (x.shape[0], *offsets.shape[2:]))).tolist():
        for tap in range(4):
            dy, dx = offsets[b, 2 * tap : 2 * tap + 2, i, j].tolist()
            value = sample(x[b], 2 * i + tap // 2 + dy, 2 * j + tap % 2 + dx)
            out[b, i, j] += conv.weight[:, :, tap // 2, tap % 2] @ value
    return out


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (2, 3)])
def test_equals_single_samples(size: tuple[int, int], fast: bool, fast_kernels: None) -> None:
    torch.manual_seed(0)
    set_fast_kernels(fast)
    conv = DeformableConv(4, 6)
    nn.init.normal_(conv.offset.weight, std=0.5)  # moves taps by pixels, over the border too
    x = torch.randn(2, *size, 4)
    with torch.no_grad():
        y = conv(x)
        assert y.shape == (2, size[0] // 2, size[1] // 2, 6)
        torch.testing.assert_close(y, obvious(conv, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("std", [0.5, 0.0], ids=["moved", "on pixels"])
def test_gradients_are_those_of_torchvision(std: float, fast_kernels: None) -> None:
    torch.manual_seed(0)
    conv, x = DeformableConv(4, 6), torch.randn(2, 9, 8, 4, requires_grad=True)
    nn.init.normal_(conv.offset.weight, std=std), nn.init.zeros_(conv.offset.bias)
    dy = torch.randn(2, 4, 4, 6)

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(conv(x), (x, *conv.parameters()), dy)

    fast = gradients()
    set_fast_kernels(False)
    standard = gradients()
    offset = conv.offset(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    y = _by_torchvision(x, offset, conv.weight, conv.bias)
    for found in (fast, standard):
        for gradient, reference in zip(found, torch.autograd.grad(y, (x, *conv.parameters()), dy, retain_graph=True)):
            torch.testing.assert_close(gradient, reference, atol=1e-4, rtol=1e-4)


def test_offsets_that_are_no_numbers_give_none() -> None:
    """A run that diverges is stopped with a word by its hook, not by an index out of range."""
    conv, x = DeformableConv(4, 6), torch.randn(1, 8, 8, 4)
    nn.init.constant_(conv.offset.bias, math.nan)
    assert conv(x).isnan().all()
    nn.init.constant_(conv.offset.bias, math.inf)
    assert conv(x).isnan().all()
    nn.init.constant_(conv.offset.bias, 1e30)
    torch.testing.assert_close(conv(x), conv.bias.expand(1, 4, 4, 6))  # far outside


def test_without_offsets_it_is_a_convolution() -> None:
    torch.manual_seed(0)
    conv, x = DeformableConv(4, 6), torch.randn(2, 9, 8, 4)
    nn.init.zeros_(conv.offset.weight), nn.init.zeros_(conv.offset.bias)
    expected = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, stride=2)
    torch.testing.assert_close(conv(x).permute(0, 3, 1, 2), expected)


def test_offsets_learn() -> None:
    torch.manual_seed(0)
    conv = DeformableConv(4, 6)
    conv(torch.randn(2, 8, 8, 4)).square().sum().backward()
    assert conv.offset.weight.grad.abs().sum() > 0 and conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_follow_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    conv, x = DeformableConv(4, 6), torch.randn(2, 8, 8, 4)
    exact = conv(x)
    with torch.autocast("cpu", dtype):
        assert conv(x).dtype == dtype
        torch.testing.assert_close(conv(x).float(), exact, atol=0.1, rtol=0.05)
    torch.testing.assert_close(conv.to(dtype)(x.to(dtype)).float(), exact, atol=0.1, rtol=0.05)


def test_merging_normalises_and_activates() -> None:
    torch.manual_seed(0)
    merging, x = DeformableMerging(4, 6).eval(), torch.randn(2, 7, 8, 4)
    merging.norm.running_mean.normal_(), merging.norm.running_var.uniform_(0.5, 2)
    y = (merging.conv(x) - merging.norm.running_mean) / (merging.norm.running_var + merging.norm.eps).sqrt()
    torch.testing.assert_close(merging(x), F.gelu(y))
    assert merging(x).shape == (2, 3, 4, 6)
