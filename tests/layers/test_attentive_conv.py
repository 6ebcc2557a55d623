"""Attentive convolution against loops over samples, channels and bins."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.kernels import dynamic_depthwise
from backbones.layers import AttentiveConv


def slow(conv: AttentiveConv, x: Tensor) -> Tensor:
    B, H, W, C = x.shape
    k, N = conv.kernel_size, H * W
    z, u, y = conv.kernel_proj(x).flatten(1, 2), conv.x_proj(x), torch.empty_like(x)
    for b in range(B):
        for c in range(C):
            bins = [z[b, j * N // k**2 : math.ceil((j + 1) * N / k**2), c].mean() for j in range(k**2)]
            kernel = conv.kernel_gen(F.gelu(torch.stack(bins)))
            kernel = kernel - torch.sigmoid(conv.difference_control[c]) * kernel.mean()
            y[b, :, :, c] = F.conv2d(u[b, :, :, c][None, None], kernel.view(1, 1, k, k), padding=k // 2)[0, 0]
    return conv.proj(y)


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("size", [(9, 9), (7, 12), (2, 3)])
def test_equals_loops(size: tuple[int, int], kernel_size: int) -> None:
    torch.manual_seed(0)
    conv, x = AttentiveConv(4, kernel_size), torch.randn(3, *size, 4)
    torch.nn.init.normal_(conv.difference_control)
    torch.testing.assert_close(conv(x), slow(conv, x))


def test_rows_and_columns_are_not_interchangeable() -> None:
    torch.manual_seed(0)
    conv, x = AttentiveConv(4), torch.randn(1, 9, 9, 4)
    assert not torch.allclose(conv.kernels(x), conv.kernels(x.transpose(1, 2)))


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size 4 is even"):
        AttentiveConv(8, kernel_size=4)


@pytest.mark.parametrize("batch", [1, 3])
def test_traced_programs_add_up_offsets_to_the_same(batch: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(batch, 5, 6, 4), torch.randn(batch, 4, 3, 3)
    traced = torch.jit.trace(dynamic_depthwise, (x, weight))
    torch.testing.assert_close(traced(x, weight), dynamic_depthwise(x, weight))
    assert not any(node.kind() == "aten::_convolution" for node in traced.graph.nodes())
