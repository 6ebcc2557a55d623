"""Depthwise convolutions of maps against ``F.conv2d``, on every path, and the sub-grids against their inverse."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.kernels import sequential, set_fast_kernels, shortcut, to_nchw, to_nhwc
from backbones.kernels.convolution import deinterleave, interleave

SIZES = [(14, 14), (12, 17), (5, 31), (3, 2), (1, 1)]


def depthwise(dim: int, side: int | tuple[int, int], stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    sides = (side, side) if isinstance(side, int) else side
    padding = tuple(k // 2 * dilation for k in sides)
    return nn.Conv2d(dim, dim, sides, stride, padding, dilation, groups=dim)


def run(conv: nn.Conv2d, x: Tensor, add: bool, *steps: nn.Module) -> Tensor:
    return sequential(x, to_nchw, shortcut(conv) if add else conv, to_nhwc, *steps)


def obvious(conv: nn.Conv2d, x: Tensor, add: bool) -> Tensor:
    y = conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return x + y if add else y


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"side": 3},
        {"side": 5},
        {"side": 3, "stride": 2},
        {"side": 3, "shortcut": True},
        {"side": 7, "dilation": 3},
        {"side": 3, "dilation": 2},
        {"side": 7, "dilation": 3, "shortcut": True},
        {"side": 3, "dilation": 2, "stride": 2},
        {"side": (1, 7), "shortcut": True},
        {"side": (5, 3), "dilation": 2, "shortcut": True},
    ],
    ids=str,
)
def test_equals_conv2d(options: dict, size: tuple[int, int], fast: bool, fast_kernels: None) -> None:
    torch.manual_seed(0)
    options = dict(options)
    add = options.pop("shortcut", False)
    conv, x = depthwise(16, **options), torch.randn(2, *size, 16)
    set_fast_kernels(fast)
    expected = obvious(conv, x, add)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(run(conv, x, add), expected)
            activated = run(conv, x, add, nn.GELU())
            torch.testing.assert_close(activated, F.gelu(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradients_of_the_sub_grids(size: tuple[int, int], fast_kernels: None) -> None:
    torch.manual_seed(0)
    conv, x = depthwise(8, 7, dilation=3), torch.randn(2, *size, 8, requires_grad=True)
    weights = torch.randn(2, *size, 8)
    inputs = (x, conv.weight, conv.bias)
    ours = torch.autograd.grad((run(conv, x, True) * weights).sum(), inputs)
    expected = torch.autograd.grad((obvious(conv, x, True) * weights).sum(), inputs)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_deinterleave_is_the_inverse(size: tuple[int, int], dilation: int) -> None:
    x = torch.randn(2, *size, 4)
    grids = interleave(x, dilation)
    assert torch.equal(deinterleave(grids, dilation, *size), x)
    for i in range(dilation):
        for j in range(dilation):
            part = x[:, i::dilation, j::dilation]
            grid = grids.view(dilation, dilation, 2, *grids.shape[1:])[i, j]
            assert torch.equal(grid[:, : part.shape[1], : part.shape[2]], part)
            assert not grid[:, part.shape[1] :].any() and not grid[:, :, part.shape[2] :].any()
