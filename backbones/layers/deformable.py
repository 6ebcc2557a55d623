"""Deformable token merging (Pan et al., "Less is More: Pay Less Attention in Vision Transformers", AAAI 2022)."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from backbones.layers.kernels import use_fast_paths
from backbones.layers.layout import to_nchw, to_nhwc
from backbones.layers.linear import linear


def between(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two pixels of an axis that a position lies between, and the weight of each: 0 outside the map.

    position: (...), in pixels -> indices from 0 to size - 1 and weights, (..., 2)
    """
    low = position.detach().floor()
    pixel = torch.stack([low, low + 1], dim=-1)
    fraction = position - low
    weight = torch.stack([1 - fraction, fraction], dim=-1) * ((pixel >= 0) & (pixel < size))
    return pixel.long().clamp_(0, size - 1), weight  # clamped as integers: a position that is no number stays a pixel


def sample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear samples of a map, zero outside.

    x: (B, H, W, C), rows and columns: (B, ...), in pixels -> (B, ..., C)
    """
    B, H, W, C = x.shape
    (row, row_weight), (column, column_weight) = between(rows, H), between(columns, W)
    image = torch.arange(0, B * H * W, H * W, device=x.device).view(B, *[1] * (rows.ndim + 1))
    pixel = (image + row.unsqueeze(-1) * W + column.unsqueeze(-2)).view(-1, 4)
    weight = (row_weight.unsqueeze(-1) * column_weight.unsqueeze(-2)).view(-1, 4)
    # Sums of rows of a table, whole pixels at a time.
    samples = F.embedding_bag(pixel, x.reshape(-1, C), mode="sum", per_sample_weights=weight)
    return samples.view(*rows.shape, C)


@register_notrace_module
class DeformableConv(nn.Conv2d):
    """2x2 convolution of stride 2 whose four taps are moved by learned offsets (deformable convolution, version 1).

    x: (B, H, W, dim) -> (B, floor(H / 2), floor(W / 2), dim_out). Samples between pixels are bilinear, outside zero.

    On a CPU torchvision's operator takes one channel after the other in a single thread, forward and back. There the
    taps are sampled whole pixels at a time and meet the kernel as a linear layer: twice to ten times as fast.
    """

    def __init__(self, dim: int, dim_out: int, device=None, dtype=None) -> None:
        super().__init__(dim, dim_out, kernel_size=2, stride=2, device=device, dtype=dtype)
        self.offset = nn.Conv2d(dim, 2 * 2 * 2, kernel_size=2, stride=2, device=device, dtype=dtype)  # (dy, dx) a tap

    def forward(self, x: Tensor) -> Tensor:
        offset = self.offset(to_nchw(x))
        if torch.jit.is_scripting():
            return self.plain(x, offset)
        return self.sampled(x, to_nhwc(offset)) if use_fast_paths(x) else self.plain(x, offset)

    def sampled(self, x: Tensor, offset: Tensor) -> Tensor:
        """Samples, in float32 at least, then a linear layer.

        x: (B, H, W, dim), offset: (B, H / 2, W / 2, 8) -> (B, H / 2, W / 2, dim_out)
        """
        h, w = offset.shape[1:3]
        dtype = torch.promote_types(x.dtype, torch.float32)
        offset = offset.to(dtype)  # before it is added to a position, which has more digits than a half type
        tap = torch.arange(4, device=x.device)
        rows = 2 * torch.arange(h, device=x.device)[:, None, None] + tap // 2 + offset[..., 0::2]
        columns = 2 * torch.arange(w, device=x.device)[:, None] + tap % 2 + offset[..., 1::2]
        taps = sample(x.to(dtype), rows, columns).flatten(3)  # (B, h, w, 4 * dim)
        return linear(taps.to(x.dtype), self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)

    def plain(self, x: Tensor, offset: Tensor) -> Tensor:
        """The same by torchvision's operator. x: (B, H, W, dim), offset: (B, 8, H / 2, W / 2)"""
        # The operator has no kernels for half types, and takes one type for all its inputs (unknown to autocast).
        dtype = torch.float32 if self.weight.element_size() == 2 else self.weight.dtype
        bias = self.bias
        if bias is not None:
            bias = bias.to(dtype)
        y = deform_conv2d(to_nchw(x).to(dtype), offset.to(dtype), self.weight.to(dtype), bias, stride=(2, 2))
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
