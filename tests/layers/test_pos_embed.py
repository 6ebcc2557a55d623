"""Conditional position encoding."""

import torch
import torch.nn.functional as F

from backbones.kernels import set_fast_kernels
from backbones.layers import ConvPosEnc


def test_adds_a_depthwise_convolution(fast_kernels: None) -> None:
    torch.manual_seed(0)
    cpe, x = ConvPosEnc(6), torch.randn(2, 5, 9, 6)
    y = F.conv2d(x.permute(0, 3, 1, 2), cpe.proj.weight, cpe.proj.bias, padding=1, groups=6)
    for fast in (True, False):
        set_fast_kernels(fast)
        torch.testing.assert_close(cpe(x), x + y.permute(0, 2, 3, 1))
