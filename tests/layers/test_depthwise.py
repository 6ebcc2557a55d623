"""Depthwise convolution against ``F.conv2d``, on every path, and the sub-grids against their inverse."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.layers import DepthwiseConv, gelu_of, set_fast_kernels
from backbones.layers.depthwise import deinterleave, interleave

SIZES = [(14, 14), (12, 17), (5, 31), (3, 2), (1, 1)]


def obvious(conv: DepthwiseConv, x: Tensor, stride: int, dilation: int) -> Tensor:
    half = conv.weight.shape[-1] // 2 * dilation
    y = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, stride, half, dilation, x.shape[-1]).permute(0, 2, 3, 1)
    return x + y if conv.shortcut else y


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 5},
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 3, "shortcut": True},
        {"kernel_size": 7, "dilation": 3},
        {"kernel_size": 3, "dilation": 2},
        {"kernel_size": 7, "dilation": 3, "shortcut": True},
        {"kernel_size": 3, "dilation": 2, "stride": 2},
    ],
    ids=str,
)
def test_equals_conv2d(options: dict, size: tuple[int, int], fast: bool, fast_kernels: None) -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv(16, **options)
    x = torch.randn(2, *size, 16)
    stride, dilation = options.get("stride", 1), options.get("dilation", 1)
    set_fast_kernels(fast)
    expected = obvious(conv, x, stride, dilation)
    assert expected.shape == (2, -(-size[0] // stride), -(-size[1] // stride), 16)
    torch.testing.assert_close(conv(x), expected)
    torch.testing.assert_close(gelu_of(conv, x), F.gelu(expected))
    with torch.no_grad():
        torch.testing.assert_close(conv(x), expected.detach())
        torch.testing.assert_close(gelu_of(conv, x), F.gelu(expected.detach()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradients_of_the_sub_grids(size: tuple[int, int], fast_kernels: None) -> None:
    torch.manual_seed(0)
    conv, x = DepthwiseConv(8, 7, dilation=3, shortcut=True), torch.randn(2, *size, 8, requires_grad=True)
    weights = torch.randn(2, *size, 8)
    inputs = (x, conv.weight, conv.bias)
    ours = torch.autograd.grad((conv(x) * weights).sum(), inputs)
    expected = torch.autograd.grad((obvious(conv, x, 1, 3) * weights).sum(), inputs)
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
