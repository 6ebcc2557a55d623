"""Deformable 2x2 convolution of stride 2: by torchvision's operator, or by samples of whole pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from backbones.kernels.convolution import linear
from backbones.kernels.layout import to_nchw, to_nhwc
from backbones.kernels.machine import is_observed, serves
from backbones.kernels.rows import sum_rows


def deformable_conv(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """2x2 convolution of stride 2 at moved pixels (deformable convolution, version 1); bilinear, zero outside.

    On a CPU torchvision's operator takes one channel after the other in a single thread, forward and back. There pixels
    are sampled as a whole and meet the kernel as a linear layer: twice to ten times as fast. Who looks at operators
    gets the same in standard ones, because other runtimes and ``torch.func`` do not know torchvision's.

    x: (B, H, W, C), offset: (B, H // 2, W // 2, 8), (dy, dx) a kernel position, weight: (C_out, C, 2, 2)
    -> (B, H // 2, W // 2, C_out)
    """
    observed = is_observed()
    if not (observed or serves(x, offset)):
        return _by_torchvision(x, offset, weight, bias)
    h, w = offset.shape[1:3]
    dtype = torch.promote_types(x.dtype, torch.float32)
    offset = offset.to(dtype)  # before it is added to a position, which has more digits than a half type
    position = torch.arange(4, device=x.device)
    rows = 2 * torch.arange(h, device=x.device)[:, None, None] + position // 2 + offset[..., 0::2]
    columns = 2 * torch.arange(w, device=x.device)[:, None] + position % 2 + offset[..., 1::2]
    samples = sample(x.to(dtype), rows, columns, observed).flatten(3).to(x.dtype)  # (B, h, w, 4 * C)
    matrix = weight.permute(0, 2, 3, 1).flatten(1)
    return F.linear(samples, matrix, bias) if observed else linear(samples, matrix, bias)


def _by_torchvision(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The operator has no kernels for half types, and takes one type for all its inputs (autocast does not see it)."""
    dtype = torch.float32 if weight.element_size() == 2 else weight.dtype
    tensors = to_nchw(x).to(dtype), to_nchw(offset).to(dtype), weight.to(dtype)
    y = deform_conv2d(*tensors, None if bias is None else bias.to(dtype), stride=(2, 2))
    return to_nhwc(y.to(offset.dtype).contiguous(memory_format=torch.channels_last))


def between(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two pixels of an axis that a position lies between, and the weight of each: 0 outside the map.

    position: (...), in pixels -> indices from 0 to size - 1 and weights, (..., 2), copies
    """
    low = position.detach().floor()
    pixel = torch.stack([low, low + 1], dim=-1)
    fraction = position - low
    inside = ((pixel >= 0) & (pixel < size)).to(position.dtype)  # quantisers that look at products know no booleans
    weight = torch.stack([1 - fraction, fraction], dim=-1) * inside
    return pixel.long().clamp_(0, size - 1), weight  # clamped as integers: a position that is no number stays a pixel


def sample(x: Tensor, rows: Tensor, columns: Tensor, standard: bool = False) -> Tensor:
    """Bilinear samples of a map, zero outside.

    x: (B, H, W, C), rows and columns: (B, ...), in pixels -> (B, ..., C)

    Args:
        x: Map.
        rows: Row of each sample.
        columns: Column of each sample.
        standard: Use the operators that every runtime has, gather and product, rather than sums of rows of a table.
    """
    B, H, W, C = x.shape
    (row, row_weight), (column, column_weight) = between(rows, H), between(columns, W)
    image = torch.arange(B, device=x.device).view(B, *[1] * (rows.ndim + 1)) * (H * W)
    pixel = (image + row.unsqueeze(-1) * W + column.unsqueeze(-2)).flatten(-2)  # (B, ..., 4)
    weight = (row_weight.unsqueeze(-1) * column_weight.unsqueeze(-2)).flatten(-2)
    table = x.reshape(-1, C)
    if standard:
        samples = weight.reshape(-1, 1, 4) @ table[pixel.flatten()].unflatten(0, (-1, 4))
    else:
        samples = sum_rows(table, pixel.view(-1, 4), weight.view(-1, 4))
    return samples.view(*rows.shape, C)
