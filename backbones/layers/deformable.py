"""Deformable token merging (Pan et al., "Less is More: Pay Less Attention in Vision Transformers", AAAI 2022)."""

import math

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from backbones.kernels import deformable_conv, sequential, to_nchw, to_nhwc


@register_notrace_module
class DeformableConv(nn.Module):
    """2x2 convolution of stride 2 whose four pixels are moved by learned offsets (deformable convolution, version 1).

    x: (B, H, W, dim) -> (B, floor(H / 2), floor(W / 2), dim_out). Samples between pixels are bilinear, outside zero.
    Cost: 4 * dim * (dim_out + 8) a pixel of the result, beside the samples.
    """

    def __init__(self, dim: int, dim_out: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim_out, dim, 2, 2, **dd))
        self.bias = nn.Parameter(torch.empty(dim_out, **dd))
        self.offset = nn.Conv2d(dim, 2 * 2 * 2, kernel_size=2, stride=2, **dd)  # (dy, dx) of a kernel position
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight and bias uniform with bound 1 / sqrt(fan_in), as ``nn.Conv2d``; offsets 0."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        return deformable_conv(x, sequential(x, to_nchw, self.offset, to_nhwc), self.weight, self.bias)


class DeformableMerging(nn.Module):
    """Halves the resolution: deformable 2x2 convolution -> BatchNorm -> GELU.

    x: (B, H, W, dim) -> (B, floor(H / 2), floor(W / 2), dim_out). An odd last row or column is left out.
    Cost: 4 * dim * (dim_out + 8) a pixel of the result, beside the samples.
    """

    def __init__(self, dim: int, dim_out: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.conv = DeformableConv(dim, dim_out, **dd)
        self.norm = nn.BatchNorm2d(dim_out, **dd)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return sequential(self.conv(x), to_nchw, self.norm, to_nhwc, self.act)
