"""Deformable token merging (Pan et al., "Less is More: Pay Less Attention in Vision Transformers", AAAI 2022)."""

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from backbones.layers.layout import to_nchw, to_nhwc


@register_notrace_module
class DeformableConv(nn.Conv2d):
    """2x2 convolution of stride 2 whose four taps are moved by learned offsets (deformable convolution, version 1).

    x: (B, H, W, dim) -> (B, floor(H / 2), floor(W / 2), dim_out). Samples between pixels are bilinear, outside zero.
    """

    def __init__(self, dim: int, dim_out: int, device=None, dtype=None) -> None:
        super().__init__(dim, dim_out, kernel_size=2, stride=2, device=device, dtype=dtype)
        self.offset = nn.Conv2d(dim, 2 * 2 * 2, kernel_size=2, stride=2, device=device, dtype=dtype)  # (dy, dx) a tap

    def forward(self, x: Tensor) -> Tensor:
        x = to_nchw(x)
        offset = self.offset(x)
        # The operator has no kernels for half types, and takes one type for all its inputs (unknown to autocast).
        dtype = torch.float32 if self.weight.element_size() == 2 else self.weight.dtype
        bias = self.bias
        if bias is not None:
            bias = bias.to(dtype)
        y = deform_conv2d(x.to(dtype), offset.to(dtype), self.weight.to(dtype), bias, stride=(2, 2))
        return to_nhwc(y.to(offset.dtype).contiguous(memory_format=torch.channels_last))


class DeformableMerging(nn.Module):
    """Halves the resolution: deformable 2x2 convolution -> BatchNorm -> GELU.

    x: (B, H, W, dim) -> (B, floor(H / 2), floor(W / 2), dim_out). An odd last row or column is left out.
    """

    def __init__(self, dim: int, dim_out: int, device=None, dtype=None) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.conv = DeformableConv(dim, dim_out, **dd)
        self.norm = nn.BatchNorm2d(dim_out, **dd)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(to_nhwc(self.norm(to_nchw(self.conv(x)))))
